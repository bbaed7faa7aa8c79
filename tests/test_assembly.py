"""`tests.assembly` sees a spill and counts multiply-adds, in both assembly languages."""

from tests.assembly import functions, loops

X86 = """
0000000000000000 <void avx2::Tile::whole<2>(long) const>:
   0:\tmov    %rsp,%rbp
   3:\tvxorps %xmm0,%xmm0,%xmm0
   8:\tvbroadcastss (%rdx),%ymm0
   d:\tvmovups (%rax),%ymm4
  12:\tvfmadd231ps -0x20(%rax),%ymm0,%ymm12
  18:\tvfmadd231ps %ymm4,%ymm0,%ymm15
  1d:\tvfmadd231ps %ymm4,%ymm0,%ymm14
  22:\tvfmadd231ps %ymm4,%ymm0,%ymm13
{more}  2c:\tcmp    %rax,%rcx
  2f:\tjne    8 <void avx2::Tile::whole<2>(long) const+0x8>
  31:\tret
"""
ARM = """
0000000000000000 <void baseline::Tile::whole<2>(long) const>:
   0:\tldp\tq4, q5, [x1], #32
   4:\tldr\tq6, [x2]
   8:\tfmla\tv0.4s, v4.4s, v6.s[0]
   c:\tfmla\tv1.4s, v5.4s, v6.s[0]
  10:\tfmla\tv2.4s, v4.4s, v6.s[1]
  14:\tfmla\tv3.4s, v5.4s, v6.s[1]
{more}  20:\tb.ne\t0 <void baseline::Tile::whole<2>(long) const>  // b.any
"""


def only(text):
    ((name, body),) = functions(text.splitlines())
    (loop,) = loops(name, body)
    return loop


def test_multiply_adds_are_counted_among_vector_instructions():
    loop = only(X86.format(more=""))
    assert (loop.instructions, loop.multiply_adds, loop.vector, loop.spills) == (8, 4, 6, 0)
    loop = only(ARM.format(more=""))
    assert (loop.instructions, loop.multiply_adds, loop.vector, loop.spills) == (7, 4, 6, 0)


def test_what_goes_to_the_stack_is_a_spill():
    assert only(X86.format(more="  27:\tvmovaps %ymm1,-0x40(%rbp)\n")).spills == 1
    assert only(X86.replace("%rsp,%rbp", "%rsi,%rbp").format(more="  27:\tvmovaps (%rbp),%ymm1\n")).spills == 0
    assert only(ARM.format(more="  18:\tstr\tq7, [sp, #16]\n")).spills == 1


def test_loops_that_do_more_are_no_products():
    for text, more in ((X86, "  27:\tvdivps %ymm1,%ymm2,%ymm3\n"), (ARM, "  18:\tfdiv\tv1.4s, v2.4s, v3.4s\n")):
        ((name, body),) = functions(text.format(more=more).splitlines())
        assert not list(loops(name, body))
