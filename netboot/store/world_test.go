package store_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"hatchery/internal/layer"
	"hatchery/internal/progress"
	"hatchery/internal/sparse"
	"hatchery/netboot/disk"
	"hatchery/netboot/store"
	"hatchery/netboot/store/storetest"
)

const baseSize = 1 << 20

// open opens a store whose run folder lies beside it.
func open(dir string) (*store.Store, error) {
	return store.Open(filepath.Join(dir, "store"), store.Options{
		Run: filepath.Join(dir, "run"), Reserve: -1,
		Disk: disk.Options{Reserve: -1, FlushEvery: -1},
	})
}

func newStore(t testing.TB) (*store.Store, string) {
	t.Helper()
	dir := t.TempDir()
	s, err := open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, dir
}

// chains are three roots: A and B have a base and a layer in common, C has
// another base.
func chains(t testing.TB) map[string]storetest.Object {
	t.Helper()
	base := storetest.Base(t, baseSize, 1)
	docker := storetest.Layer(t, base, 2)
	return map[string]storetest.Object{
		"A": storetest.Layer(t, docker, 3),
		"B": storetest.Layer(t, docker, 4),
		"C": storetest.Base(t, baseSize+4096, 5),
	}
}

func rootOf(o storetest.Object) store.Root {
	return store.Root{Base: o.Base().Digest, Layers: o.Layers()}
}

// add puts the objects of a chain into the store.
func add(s *store.Store, o storetest.Object) error {
	for i, part := range o.Chain() {
		f, err := os.Open(part.Path)
		if err != nil {
			return err
		}
		defer f.Close()
		take := s.AddLayer
		if i == 0 {
			take = s.AddBase
		}
		if _, err := take(context.Background(), f, store.Import{Name: filepath.Base(part.Path), Digest: part.Digest}); err != nil {
			return err
		}
	}
	return nil
}

func importFile(s *store.Store, kind store.Kind, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	take := s.AddBase
	if kind == store.Layer {
		take = s.AddLayer
	}
	_, err = take(context.Background(), f, store.Import{Name: filepath.Base(path)})
	return err
}

// objectOf is what a file is as an object.
func objectOf(kind store.Kind, path string) (o store.Object, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return o, err
	}
	o = store.Object{Kind: kind, Size: info.Size()}
	if kind == store.Layer {
		h, err := layer.ReadHeader(path)
		o.Digest = h.Digest
		return o, err
	}
	f, err := os.Open(path)
	if err != nil {
		return o, err
	}
	defer f.Close()
	o.Digest, err = digest.FromReader(f)
	return o, err
}

// sendPart brings a file in as a push does: on from where it was left, without
// its zeros.
func sendPart(s *store.Store, kind store.Kind, path string) error {
	ctx := context.Background()
	o, err := objectOf(kind, path)
	if err != nil {
		return err
	}
	in, err := s.Incoming(ctx, progress.Discard)
	if err != nil {
		return err
	}
	defer in.Close()
	arrived, err := in.Arrived(o)
	if err != nil || s.Has(o.Kind, o.Digest) {
		return err
	}
	p, err := in.Part(o)
	if err != nil {
		return err
	}
	defer p.Close()
	if p.Arrived() != arrived {
		return fmt.Errorf("%d bytes are there, but %d were told", p.Arrived(), arrived)
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, 300_000) // no multiple of a block
	for off := arrived; off < o.Size; off += int64(len(buf)) {
		n, err := f.ReadAt(buf, off)
		if err != nil && err != io.EOF {
			return err
		}
		if sparse.IsZero(buf[:n]) {
			continue
		}
		if err := p.Write(ctx, buf[:n], off); err != nil {
			return err
		}
	}
	return p.Commit(ctx)
}

// A world is a store and what happens to one of its slots, told in words:
//
//	assign A, boot, resume, write 7, close, off, ready, reset, undo, mode ephemeral, remove
type world struct {
	s     *store.Store
	slot  int
	roots map[string]store.Root
	disk  *store.Disk
}

func (w *world) do(op string) error {
	ctx := context.Background()
	verb, arg, _ := strings.Cut(op, " ")
	var err error
	switch verb {
	case "assign":
		_, err = w.s.Assign(ctx, w.slot, w.roots[arg])
	case "boot", "resume":
		f := w.s.Boot
		if verb == "resume" {
			f = w.s.Resume
		}
		var d *store.Disk
		if d, err = f(ctx, w.slot); err == nil {
			w.disk = d
		}
	case "write":
		var n uint64
		if n, err = strconv.ParseUint(arg, 10, 64); err == nil {
			_, err = w.disk.WriteAt(binary.LittleEndian.AppendUint64(nil, n), 4096)
		}
		if err == nil {
			err = w.disk.Flush()
		}
	case "close":
		err = w.disk.Close()
		w.disk = nil
	case "off":
		if w.disk != nil {
			err = w.disk.Close()
			w.disk = nil
		}
		if err == nil {
			err = w.s.Stopped(ctx, w.slot)
		}
	case "ready":
		err = w.s.Ready(ctx, w.slot)
	case "reset":
		err = w.s.Reset(ctx, w.slot)
	case "rebuild":
		err = w.s.ResetKeeping(ctx, w.slot)
	case "keep":
		err = w.s.ReadyKeeping(ctx, w.slot)
	case "undo":
		err = w.s.Undo(ctx, w.slot)
	case "mode":
		err = w.s.Configure(ctx, w.slot, func(v *store.Settings) { v.Mode = store.Mode(arg) })
	case "drop":
		err = w.s.DropPrevious(ctx, w.slot)
	case "remove":
		err = w.s.Remove(ctx, w.slot)
	case "import", "part": // a kind and a path
		kind, path, _ := strings.Cut(arg, " ")
		if verb == "import" {
			err = importFile(w.s, store.Kind(kind), path)
		} else {
			err = sendPart(w.s, store.Kind(kind), path)
		}
	case "collect":
		_, err = w.s.Collect(ctx, store.CollectOptions{})
	default:
		err = fmt.Errorf("no such thing to do: %q", op)
	}
	return err
}

// read gives what was written to the open disk last; 0 for a fresh one.
func (w *world) read() (uint64, error) {
	var p [8]byte
	if n, err := w.disk.ReadAt(p[:], 4096); n < len(p) {
		return 0, err
	}
	var fresh [8]byte
	if n, err := w.disk.Chain().ReadAt(fresh[:], 4096); n < len(fresh) {
		return 0, err
	}
	if p == fresh {
		return 0, nil
	}
	return binary.LittleEndian.Uint64(p[:]), nil
}

// name is the letter of a root.
func (w *world) name(r *store.Root) string {
	for _, letter := range slices.Sorted(maps.Keys(w.roots)) {
		if other := w.roots[letter]; r.Same(&other) {
			return letter
		}
	}
	return "?"
}

// describe tells the slot's state in a line: "netboot: A1+ next B, before C2",
// with the number of the top and a plus where it was Ready; and the tops that
// are there.
func (w *world) describe() string {
	st, err := w.s.State(w.slot)
	if err != nil {
		return err.Error()
	}
	generation := func(g *store.Generation) string {
		if g == nil {
			return "nothing"
		}
		out := w.name(&g.Root) + strconv.FormatUint(g.Top, 10)
		if g.Ready {
			out += "+"
		}
		return out
	}
	out := generation(st.Current)
	if st.Next != nil {
		out += " next " + w.name(st.Next)
	}
	if st.Previous != nil {
		out += " before " + generation(st.Previous)
	}
	if running, err := w.s.Running(w.slot); err != nil {
		out += " " + err.Error()
	} else if running {
		out += " running"
	}
	return out
}

// tops lists the files of tops that the slot has.
func (w *world) tops() string {
	w.s.Close() // waits for those that go
	list, err := filepath.Glob(filepath.Join(w.s.Dir(), "slots", fmt.Sprintf("p%d", w.slot), "*.top"))
	if err != nil {
		return err.Error()
	}
	var out []string
	for _, path := range list {
		out = append(out, strings.TrimSuffix(filepath.Base(path), ".top"))
	}
	return strings.Join(out, " ")
}

// saved is a world for another process.
type saved struct {
	Dir   string
	Roots map[string]store.Root
	Ops   []string
}

// TestMain runs what a test wants killed: the operations of a world, the last
// of which ends the process at its nth step.
func TestMain(m *testing.M) {
	if text := os.Getenv("STORE_TEST_VICTIM"); text != "" {
		if err := victim(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func victim(text string) error {
	var v saved
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		return err
	}
	left, err := strconv.Atoi(os.Getenv("STORE_TEST_STEPS"))
	if err != nil {
		return err
	}
	s, err := open(v.Dir)
	if err != nil {
		return err
	}
	w := &world{s: s, slot: 1, roots: v.Roots}
	for i, op := range v.Ops {
		if i == len(v.Ops)-1 {
			s.Close()
			s.OnStep(killAfter(left))
		}
		if err := w.do(op); err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
	}
	return s.Close()
}

// killAfter ends the process at the nth step, as nothing else does.
func killAfter(n int) func(string) {
	steps := make(chan int, 1)
	steps <- n
	return func(step string) {
		left := <-steps - 1
		if left == 0 {
			fmt.Println(step)
			p, err := os.FindProcess(os.Getpid())
			if err == nil {
				err = p.Kill()
			}
			fmt.Fprintln(os.Stderr, "still alive:", err)
			select {}
		}
		steps <- left
	}
}

func uintString(n uint64) string { return strconv.FormatUint(n, 10) }
