package debarch_test

import (
	"os"
	"runtime"
	"testing"

	"hatchery/internal/debarch"
)

func TestOfStatus(t *testing.T) {
	for _, test := range []struct{ summary, status, want string }{
		{"dpkg's own", "Package: adduser\nArchitecture: all\n\nPackage: dpkg\nStatus: install ok installed\nArchitecture: armhf\n", "armhf"},
		{"no dpkg", "Package: adduser\nArchitecture: all\n", ""},
		{"a name that is none", "Package: dpkg\nArchitecture: arm\x1b[31mhf\n", ""},
		{"nonsense before it", "nonsense\n\nPackage: dpkg\nArchitecture: armhf\n", ""},
		{"nothing", "", ""},
	} {
		if got := debarch.OfStatus([]byte(test.status)); got != test.want {
			t.Errorf("%s: %q, want %q", test.summary, got, test.want)
		}
	}
}

// TestOfProgram asks for the program that this test is.
func TestOfProgram(t *testing.T) {
	names := map[string]string{"amd64": "amd64", "arm64": "arm64", "386": "i386", "riscv64": "riscv64"}
	want, ok := names[runtime.GOARCH]
	if !ok || runtime.GOOS != "linux" {
		t.Skip("not an ELF file of a known machine")
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	if got := debarch.OfProgram(data); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	arm := append([]byte(nil), data[:debarch.HeaderSize]...)
	arm[4], arm[18], arm[19], arm[36], arm[37] = 1, 40, 0, 0, 0
	if got := debarch.OfProgram(arm); got != "armel" {
		t.Errorf("soft float: %q", got)
	}
	arm[37] = 4
	if got := debarch.OfProgram(arm); got != "armhf" {
		t.Errorf("hard float: %q", got)
	}
	if got := debarch.OfProgram(arm[:debarch.HeaderSize-1]) + debarch.OfProgram([]byte("#!/bin/sh\n")); got != "" {
		t.Errorf("what is no program: %q", got)
	}
}
