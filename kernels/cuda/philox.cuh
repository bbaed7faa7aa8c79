// Philox 4x32-10, a generator without state: the same key and counter give the same four words, wherever and in
// whatever order they are asked for (J. Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011).

struct Words {
  unsigned x, y, z, w;
};

__device__ __forceinline__ Words philox(Words counter, unsigned key_low, unsigned key_high) {
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const unsigned long long a = 0xD2511F53ull * counter.x, b = 0xCD9E8D57ull * counter.z;
    counter = {unsigned(b >> 32) ^ counter.y ^ key_low, unsigned(b), unsigned(a >> 32) ^ counter.w ^ key_high,
               unsigned(a)};
    key_low += 0x9E3779B9u;
    key_high += 0xBB67AE85u;
  }
  return counter;
}
