package ext4

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"hatchery/internal/testtool"
)

// testSeed is 01020304-0506-0708-090a-0b0c0d0e0f10 as the superblock keeps it.
var testSeed = [4]uint32{0x04030201, 0x08070605, 0x0c0b0a09, 0x100f0e0d}

func TestNameHash(t *testing.T) {
	// The wanted values were printed by debugfs 1.47.0's dx_hash.
	for _, test := range []struct {
		summary string
		hasher  nameHasher
		name    string
		want    uint32
	}{
		{"half_md4", nameHasher{version: hashHalfMD4, seed: testSeed}, "foo", 0x526fd904},
		{"legacy, signed", nameHasher{version: hashLegacy, seed: testSeed}, "föo", 0x7d4bb442},
		{"half_md4, signed", nameHasher{version: hashHalfMD4, seed: testSeed}, "föo", 0x9606a2a8},
		{"tea, signed", nameHasher{version: hashTEA, seed: testSeed}, "föo", 0x58479640},
		{"legacy, unsigned", nameHasher{version: hashLegacy, unsigned: true, seed: testSeed}, "föo", 0xf4995e40},
		{"half_md4, unsigned", nameHasher{version: hashHalfMD4, unsigned: true, seed: testSeed}, "föo", 0xc16995ce},
		{"tea, unsigned", nameHasher{version: hashTEA, unsigned: true, seed: testSeed}, "föo", 0xa3e76656},
		{"no seed: the format's own", nameHasher{version: hashHalfMD4, unsigned: true}, "f oo", 0x55dfaaca},
		// debugfs lets this one stand as 0xfffffffe; the kernel does not.
		{"the value kept for the end of a directory", nameHasher{version: hashLegacy}, "34r313ba", 0xfffffffc},
	} {
		if got := test.hasher.hash(test.name); got != test.want {
			t.Errorf("%s: hash of %q is %#x, want %#x", test.summary, test.name, got, test.want)
		}
	}
}

// TestNameHashAgainstDebugfs asks debugfs for the hashes of names of every
// length.
func TestNameHashAgainstDebugfs(t *testing.T) {
	debugfs := testtool.Need(t, "debugfs")
	random := rand.New(rand.NewPCG(2, 3))
	letters := []rune("abcxyzABC0189._-+=äßœ€😀")
	var names []string
	for length := 1; length <= 255; length++ {
		var name string
		for {
			letter := letters[random.IntN(len(letters))]
			if len(name)+len(string(letter)) > length {
				break
			}
			name += string(letter)
		}
		name += strings.Repeat("x", length-len(name))
		if name[0] == '-' {
			name = "m" + name[1:]
		}
		names = append(names, name)
	}
	var script strings.Builder
	var want []uint32
	for _, seed := range []string{"", "-s 01020304-0506-0708-090a-0b0c0d0e0f10"} {
		for version := range 6 {
			for _, name := range names {
				fmt.Fprintf(&script, "dx_hash -h %d %s %q\n", version, seed, name)
				hasher := nameHasher{version: hashVersion(version % 3), unsigned: version >= 3}
				if seed != "" {
					hasher.seed = testSeed
				}
				want = append(want, hasher.hash(name))
			}
		}
	}
	path := filepath.Join(t.TempDir(), "commands")
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(script.String(), `\`, `\\`)), 0o644); err != nil {
		t.Fatal(err)
	}
	out := testtool.Run(t, debugfs, "-f", path)
	matches := regexp.MustCompile(`(?m)^Hash of (.*) is 0x([0-9a-f]+) `).FindAllStringSubmatch(out, -1)
	if len(matches) != len(want) {
		t.Fatalf("debugfs printed %d hashes for %d names", len(matches), len(want))
	}
	for i, match := range matches {
		hash, err := strconv.ParseUint(match[2], 16, 32)
		if err != nil || match[1] != names[i%len(names)] {
			t.Fatalf("unexpected line %q", match[0])
		}
		if uint32(hash) != want[i] {
			t.Errorf("line %d: hash of %q is %#x, debugfs says %#x", i+1, match[1], want[i], hash)
		}
	}
}
