// Package storetest makes small bases and sealed layers for tests of what
// keeps, carries and serves them.
package storetest

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/layer"
)

// An Object is a base or a sealed layer in a file.
type Object struct {
	Path   string
	Digest digest.Digest
	Size   int64 // of the device, bytes
	below  []Object
}

// Layers gives the digests of the layers of the chain that ends here, bottom to
// top; the base's is Base.
func (o Object) Layers() []digest.Digest {
	var out []digest.Digest
	if len(o.below) == 0 {
		return out
	}
	for _, b := range o.below[1:] {
		out = append(out, b.Digest)
	}
	return append(out, o.Digest)
}

// Base is the base of the chain.
func (o Object) Base() Object {
	if len(o.below) == 0 {
		return o
	}
	return o.below[0]
}

// Chain gives all objects of the chain, base first.
func (o Object) Chain() []Object { return append(o.below[:len(o.below):len(o.below)], o) }

// Base makes a raw image of size bytes, most of it holes, whose content
// follows from the seed.
func Base(t testing.TB, size int64, seed uint64) Object {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), fmt.Sprintf("base-%d.img", seed)))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(seed, 8))
	p := make([]byte, 16<<10)
	for at := int64(0); at < size; at += int64(len(p)) {
		n := min(int64(len(p)), size-at)
		switch rnd.IntN(4) {
		case 0: // noise
			Noise(p, rnd)
		case 1: // what compresses
			for i := range p {
				p[i] = byte(i / 64)
			}
		default:
			continue
		}
		if _, err := f.WriteAt(p[:n], at); err != nil {
			t.Fatal(err)
		}
	}
	d, err := digest.SHA256.FromReader(io.NewSectionReader(f, 0, size))
	if err != nil {
		t.Fatal(err)
	}
	return Object{Path: f.Name(), Digest: d, Size: size}
}

// Layer makes a sealed layer over a chain, whose content follows from the
// seed.
func Layer(t testing.TB, below Object, seed uint64) Object {
	t.Helper()
	parts := below.Chain()
	var paths []string
	for _, o := range parts[1:] {
		paths = append(paths, o.Path)
	}
	chain, err := layer.OpenChain(parts[0].Path, parts[0].Digest, paths...)
	if err != nil {
		t.Fatal(err)
	}
	defer chain.Close()
	o := Object{Path: filepath.Join(t.TempDir(), fmt.Sprintf("layer-%d.layer", seed)), Size: below.Size, below: parts}
	l, err := layer.Create(o.Path, chain.Top(), below.Size)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	rnd := rand.New(rand.NewPCG(seed, 9))
	p := make([]byte, 8<<10)
	for range 1 + below.Size>>18 {
		Noise(p, rnd)
		if _, err := l.WriteAt(p, rnd.Int64N(below.Size-int64(len(p)))); err != nil {
			t.Fatal(err)
		}
	}
	if o.Digest, err = l.Seal(); err != nil {
		t.Fatal(err)
	}
	return o
}

// Noise fills p.
func Noise(p []byte, rnd *rand.Rand) {
	for i := 0; i+8 <= len(p); i += 8 {
		v := rnd.Uint64()
		for k := range 8 {
			p[i+k] = byte(v >> (8 * k))
		}
	}
}
