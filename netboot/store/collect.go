package store

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/atomicfile"
)

// What Collect looks for.
type CollectOptions struct {
	// DryRun lists what would be removed, and leaves it.
	DryRun bool
	// Partial removes what arrived in part, too: a push that goes on would send
	// it from its start.
	Partial bool
}

// Garbage is something that nothing refers to.
type Garbage struct {
	Kind   string        `json:"kind"` // base, layer, partial
	Digest digest.Digest `json:"digest"`
	Stored int64         `json:"stored"` // bytes that it takes
}

// Collect removes bases and layers that no slot refers to, and tells them.
// Nothing is removed where a slot's state cannot be read. The error matches
// [ErrBusy] while objects are being added.
func (s *Store) Collect(ctx context.Context, o CollectOptions) ([]Garbage, error) {
	all, err := s.collect(ctx, o)
	if err != nil {
		return all, fmt.Errorf("cannot collect what no slot needs: %w", err)
	}
	return all, nil
}

func (s *Store) collect(ctx context.Context, o CollectOptions) ([]Garbage, error) {
	l, err := s.alone()
	if err != nil {
		return nil, err
	}
	if l == nil {
		return nil, ErrBusy
	}
	defer l.Close()
	used, err := s.references()
	if err != nil {
		return nil, err
	}
	var out []Garbage
	for _, kind := range []Kind{Base, Layer} {
		objects, err := s.objects(kind)
		if err != nil {
			return out, err
		}
		for _, e := range objects {
			if len(used[e.digest]) > 0 {
				continue
			}
			if err := ctx.Err(); err != nil {
				return out, err
			}
			if !o.DryRun {
				if err := remove(s.place(kind, e.digest)); err != nil {
					return out, err
				}
				s.step("an object is removed")
			}
			out = append(out, Garbage{string(kind), e.digest, storedBytes(e.info)})
		}
	}
	if o.Partial {
		parts, err := s.partials()
		if err != nil {
			return out, err
		}
		for _, e := range parts {
			if !o.DryRun {
				if err := s.removePart(e.digest); err != nil {
					return out, err
				}
			}
			out = append(out, Garbage{"partial", e.digest, storedBytes(e.info)})
		}
	}
	return out, nil
}

// references gives the slots that refer to each object.
func (s *Store) references() (map[digest.Digest][]int, error) {
	slots, err := s.Slots()
	if err != nil {
		return nil, err
	}
	used := map[digest.Digest][]int{}
	for _, slot := range slots {
		st, err := s.readState(slot)
		if err != nil {
			return nil, err
		}
		mine := map[digest.Digest]bool{}
		for _, r := range st.roots() {
			for _, d := range r.objects() {
				if !mine[d] {
					mine[d] = true
					used[d] = append(used[d], slot)
				}
			}
		}
	}
	return used, nil
}

// An entry is a file that is named for a digest.
type entry struct {
	digest digest.Digest
	info   fs.FileInfo
}

func (s *Store) objects(kind Kind) ([]entry, error) {
	if kind == Base {
		return entries(s.path("bases"), ".img")
	}
	return entries(s.path("layers"), ".layer")
}

func (s *Store) partials() ([]entry, error) { return entries(s.path("incoming"), partSuffix) }

func entries(dir, suffix string) ([]entry, error) {
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []entry
	for _, e := range list {
		hex, ok := strings.CutSuffix(e.Name(), suffix)
		d := digest.NewDigestFromEncoded(digest.SHA256, hex)
		if !ok || checkDigest(d) != nil {
			continue
		}
		info, err := e.Info()
		if err != nil {
			continue // it went meanwhile
		}
		out = append(out, entry{d, info})
	}
	return out, nil
}

// Usage is what the store takes.
type Usage struct {
	Objects []ObjectUsage `json:"objects"`
	Slots   []SlotUsage   `json:"slots"`
	Partial []ObjectUsage `json:"partial,omitempty"` // arrived in part
	// Stored is all that the store takes, Free and Total what its file system
	// has, in bytes; Reserve is what stays free of it.
	Stored  int64 `json:"stored"`
	Free    int64 `json:"free"`
	Total   int64 `json:"total"`
	Reserve int64 `json:"reserve"`
}

// ObjectUsage is what an object takes.
type ObjectUsage struct {
	Kind   Kind          `json:"kind"`
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"`            // of the file, bytes
	Stored int64         `json:"stored"`          // of it, without holes
	Slots  []int         `json:"slots,omitempty"` // that refer to it: none, and Collect removes it
}

// SlotUsage is what a slot takes, in bytes.
type SlotUsage struct {
	Slot int `json:"slot"`
	// Top is what the slot's own writable layer takes, Previous that of the one
	// kept for Undo.
	Top      int64 `json:"top"`
	Previous int64 `json:"previous,omitempty"`
	// Own is what objects take that no other slot refers to, Shared the others.
	Own    int64 `json:"own"`
	Shared int64 `json:"shared"`
	Quota  int64 `json:"quota,omitempty"`
}

// Space tells what the store takes, object by object and slot by slot.
func (s *Store) Space() (*Usage, error) {
	u, err := s.space()
	if err != nil {
		return nil, fmt.Errorf("cannot tell what the netboot store takes: %w", err)
	}
	return u, nil
}

func (s *Store) space() (*Usage, error) {
	used, err := s.references()
	if err != nil {
		return nil, err
	}
	u := &Usage{Reserve: max(s.o.Reserve, 0)}
	if u.Free, u.Total, err = fileSystem(s.dir); err != nil {
		return nil, err
	}
	own, shared := map[int]int64{}, map[int]int64{}
	for _, kind := range []Kind{Base, Layer} {
		objects, err := s.objects(kind)
		if err != nil {
			return nil, err
		}
		for _, e := range objects {
			o := ObjectUsage{kind, e.digest, e.info.Size(), storedBytes(e.info), used[e.digest]}
			for _, slot := range o.Slots {
				if len(o.Slots) == 1 {
					own[slot] += o.Stored
				} else {
					shared[slot] += o.Stored
				}
			}
			u.Stored += o.Stored
			u.Objects = append(u.Objects, o)
		}
	}
	parts, err := s.partials()
	if err != nil {
		return nil, err
	}
	for _, e := range parts {
		o := ObjectUsage{Digest: e.digest, Size: e.info.Size(), Stored: storedBytes(e.info)}
		u.Stored += o.Stored
		u.Partial = append(u.Partial, o)
	}
	slots, err := s.Slots()
	if err != nil {
		return nil, err
	}
	for _, slot := range slots {
		st, err := s.readState(slot)
		if err != nil {
			return nil, err
		}
		v := SlotUsage{Slot: slot, Own: own[slot], Shared: shared[slot], Quota: st.Quota}
		if st.Current != nil && st.Current.Top != 0 {
			v.Top = s.storedAt(s.topPath(slot, st.Current.Top))
		}
		if st.Previous != nil && st.Previous.Top != 0 {
			v.Previous = s.storedAt(s.topPath(slot, st.Previous.Top))
		}
		u.Stored += v.Top + v.Previous
		u.Slots = append(u.Slots, v)
	}
	return u, nil
}

// storedAt is what a file takes; nothing where it went meanwhile.
func (s *Store) storedAt(path string) int64 {
	info, err := os.Lstat(path)
	if err != nil {
		return 0
	}
	return storedBytes(info)
}

// removePart removes an object that arrived in part.
func (s *Store) removePart(d digest.Digest) error {
	// The progress first: without it the part is nothing.
	if err := remove(s.incomingPath(d, progressSuffix)); err != nil {
		return err
	}
	if err := remove(s.incomingPath(d, partSuffix)); err != nil {
		return err
	}
	return atomicfile.SyncDir(s.path("incoming"))
}

func (s *Store) incomingPath(d digest.Digest, suffix string) string {
	return filepath.Join(s.path("incoming"), d.Encoded()+suffix)
}
