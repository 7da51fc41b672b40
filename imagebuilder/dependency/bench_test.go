package dependency_test

import (
	"context"
	"os"
	"runtime"
	"testing"

	"hatchery/imagebuilder/dependency"
)

// BenchmarkReadIndexes reads Debian's indexes for armel, some 60,000
// packages, and says how much memory they are kept in.
func BenchmarkReadIndexes(b *testing.B) {
	root := newAptRoot(b, "bookworm")
	status, err := os.ReadFile(root.status)
	if err != nil {
		b.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var u *dependency.Universe
	for b.Loop() {
		u = root.universe(b, string(status))
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/1e6, "MB-kept")
	b.ReportMetric(float64(u.Len()), "packages")
}

// BenchmarkResolve resolves against all of them.
func BenchmarkResolve(b *testing.B) {
	root := newAptRoot(b, "bookworm")
	status, err := os.ReadFile(root.status)
	if err != nil {
		b.Fatal(err)
	}
	u := root.universe(b, string(status))
	for _, name := range []string{"docker.io", "podman", "kde-full"} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := u.Resolve(context.Background(), []dependency.Want{{Name: name}}, dependency.Options{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
