package initramfs_test

import (
	"context"
	"os"
	"testing"

	"hatchery/netboot/initramfs"
)

// BenchmarkReadKernel reads the kernel HATCHERY_KERNEL.
func BenchmarkReadKernel(b *testing.B) {
	name := os.Getenv("HATCHERY_KERNEL")
	if name == "" {
		b.Skip("HATCHERY_KERNEL names no kernel")
	}
	kernel, err := os.ReadFile(name)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := initramfs.ReadKernel(kernel); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkMake makes the initramfs of a stand-in base, HATCHERY_STANDIN, with
// a program as large as nodeinit.
func BenchmarkMake(b *testing.B) {
	_, _, root := standIn(b)
	releases, err := initramfs.Releases(root.IOFS())
	if err != nil || len(releases) != 1 {
		b.Fatal(releases, err)
	}
	program, err := os.ReadFile(os.Getenv("HATCHERY_NODEINIT"))
	if err != nil {
		b.Skip(err)
	}
	o := initramfs.Options{Root: root.IOFS(), KernelRelease: releases[0], NodeInit: program}
	o.Modules, o.Optional = initramfs.Needs(false, "ecm")
	b.Run("plan", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := initramfs.NewPlan(context.Background(), o); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("make", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			made, err := initramfs.Make(context.Background(), o)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(len(made)), "bytes")
		}
	})
}
