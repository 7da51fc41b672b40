package deb_test

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"hatchery/imagebuilder/deb"
	"hatchery/internal/testtool"
)

// benchPackage is the package that DEB_BENCH_FILE names, or this machine's
// docker.io from its mirror.
func benchPackage(b *testing.B) string {
	b.Helper()
	if name := os.Getenv("DEB_BENCH_FILE"); name != "" {
		return name
	}
	dir := b.TempDir()
	fetch := exec.Command(testtool.Need(b, "apt-get"), "-qq", "download", "docker.io")
	fetch.Dir = dir
	if out, err := fetch.CombinedOutput(); err != nil {
		b.Logf("%s", out)
		testtool.Missing(b, "docker.io from a Debian mirror")
	}
	found, err := filepath.Glob(filepath.Join(dir, "docker.io_*.deb"))
	if err != nil || len(found) != 1 {
		b.Fatalf("apt-get download left %q, %v", found, err)
	}
	return found[0]
}

// BenchmarkData decodes all that a package puts onto a system;
// BenchmarkDpkgDeb has dpkg-deb do the same.
func BenchmarkData(b *testing.B) {
	f, err := os.Open(benchPackage(b))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // it is read only
	info, err := f.Stat()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		d, err := deb.Open(f, info.Size())
		if err != nil {
			b.Fatal(err)
		}
		data := d.DataTar(b.Context())
		n, err := io.Copy(io.Discard, data)
		data.Close() //nolint:errcheck // always nil
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(n)
	}
}

func BenchmarkDpkgDeb(b *testing.B) {
	tool := testtool.Need(b, "dpkg-deb")
	file := benchPackage(b)
	for b.Loop() {
		dpkg := exec.Command(tool, "--fsys-tarfile", file)
		out, err := dpkg.StdoutPipe()
		if err == nil {
			err = dpkg.Start()
		}
		if err != nil {
			b.Fatal(err)
		}
		n, err := io.Copy(io.Discard, out)
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(n)
		if err := dpkg.Wait(); err != nil {
			b.Fatal(err)
		}
	}
}
