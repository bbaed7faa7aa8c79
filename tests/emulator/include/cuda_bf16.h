// emulator.h, which every kernel text is compiled with, has all of it.
#pragma once
