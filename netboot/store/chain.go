package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/layer"
)

// A part is a base or sealed layer that is open. Chains that have it in common
// share it: one map in memory, and one page cache.
type part struct {
	layer.Parent
	closer io.Closer
	below  *part
	refs   int
}

// chain opens what a root consists of and gives its uppermost part.
func (s *Store) chain(r *Root) (*part, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var top *part
	for _, d := range r.objects() {
		p, err := s.open(d, top)
		if err != nil {
			s.drop(top)
			return nil, fmt.Errorf("cannot open what slot p%d boots: %w", r.Slot, err)
		}
		top = p
	}
	return top, nil
}

// chainTo opens the chain that ends with an object of the store.
func (s *Store) chainTo(d digest.Digest, wanted string) (*part, error) {
	objects, err := s.descend(d, wanted)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var top *part
	for _, d := range objects {
		p, err := s.open(d, top)
		if err != nil {
			s.drop(top)
			return nil, err
		}
		top = p
	}
	return top, nil
}

// descend gives the objects of the chain that ends with d, base first.
func (s *Store) descend(d digest.Digest, wanted string) ([]digest.Digest, error) {
	var layers []digest.Digest
	for range MaxLayers + 1 {
		if _, err := os.Lstat(s.basePath(d)); err == nil {
			out := []digest.Digest{d}
			for i := range layers {
				out = append(out, layers[len(layers)-1-i])
			}
			return out, nil
		}
		h, err := layer.ReadHeader(s.layerPath(d))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, &MissingError{d, wanted}
		}
		if err != nil {
			return nil, err
		}
		layers = append(layers, d)
		d, wanted = h.Parent, "layer "+string(d)
	}
	return nil, fmt.Errorf("more than %d layers lie on one another", MaxLayers)
}

// open gives the part of a digest over below, whose reference it takes over
// where it succeeds. Called with mu held.
func (s *Store) open(d digest.Digest, below *part) (*part, error) {
	if p := s.parts[d]; p != nil {
		if p.below != below {
			return nil, fmt.Errorf("%s: %w: it does not lie on %s", d, layer.ErrWrongParent, below.name())
		}
		p.refs++
		s.drop(below) // p has its own
		return p, nil
	}
	p := &part{below: below, refs: 1}
	if below == nil {
		b, err := layer.OpenBase(s.basePath(d), d)
		if err != nil {
			return nil, missing(err, d, "the root")
		}
		p.Parent, p.closer = b, b
	} else {
		// An unsealed one would be opened for writing.
		h, err := layer.ReadHeader(s.layerPath(d))
		if err != nil {
			return nil, missing(err, d, "the root")
		}
		if !h.Sealed || h.Digest != d {
			return nil, &CorruptError{s.layerPath(d), -1, "this is not the layer of its name"}
		}
		l, err := layer.Open(s.layerPath(d), below.Parent)
		if err != nil {
			return nil, err
		}
		p.Parent, p.closer = l, l
	}
	s.parts[d] = p
	return p, nil
}

func (p *part) name() string {
	if p == nil {
		return "nothing"
	}
	return string(p.Digest())
}

// release gives back a reference to a part.
func (s *Store) release(p *part) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(p)
}

// drop is release with mu held; nil is nothing.
func (s *Store) drop(p *part) {
	for p != nil {
		if p.refs--; p.refs > 0 {
			return
		}
		delete(s.parts, p.Digest())
		p.closer.Close() // it was only read
		p = p.below
	}
}

// missing says so where a file is not there.
func missing(err error, d digest.Digest, wanted string) error {
	if errors.Is(err, fs.ErrNotExist) {
		return &MissingError{d, wanted}
	}
	return err
}
