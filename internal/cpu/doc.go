// Package cpu tells which processor an ELF file needs, and whether a Raspberry
// Pi has it.
//
// A Pi Zero is ARMv6. A program for ARMv7 dies there of its first new
// instruction, without a word. What a file needs is written in two places: the
// C compiler's tools leave Tag_CPU_arch in the section .ARM.attributes, the Go
// tools leave GOARM in the build information. A program of Go alone has no
// attributes, and one of Go and C has those of its C objects only, so the
// higher of the two counts. Where neither is there, nobody knows.
//
// Beside the level there is the calling convention: a program that is linked
// with a libc at run time must pass floating-point numbers as that libc does,
// in integer registers (soft float, Debian's armel) or in the VFP's (hard
// float, armhf). A static program brings its own libc and runs with either.
//
// What is not judged, because this processor never runs it: relocatable files
// (kernel modules and what a linker takes; images carry the modules of several
// kernels, ARMv7's and 64-bit ones among them, and each kernel takes its own
// only), core dumps, files for virtual machines (eBPF, Guile) and for the
// VideoCore, which starts every Raspberry Pi. What is judged, and refused: a
// program for another machine, such as one that was compiled for the
// workstation, and one that was packed so that it shows neither (UPX).
//
// The input is foreign. Only headers and the few sections that matter are
// read, all of them bounded, whatever sizes and counts the file claims.
//
// Sources: System V ABI (gABI), chapter 4; ELF for the Arm Architecture
// (aaelf32), 5.2 and 5.3; Addenda to, and Errata in, the ABI for the Arm
// Architecture (addenda32), 3; Linux's fs/binfmt_elf.c for what a kernel takes;
// Go's debug/buildinfo for the build information.
package cpu
