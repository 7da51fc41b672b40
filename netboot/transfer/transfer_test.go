package transfer_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"hatchery/internal/layer"
	"hatchery/internal/progress"
	"hatchery/netboot/disk"
	"hatchery/netboot/store"
	"hatchery/netboot/store/storetest"
	"hatchery/netboot/transfer"
)

const baseSize = 40 << 20 // several marks

func openStore(t testing.TB, dir string, reserve int64) *store.Store {
	t.Helper()
	s, err := store.Open(filepath.Join(dir, "store"), store.Options{
		Run: filepath.Join(dir, "run"), Reserve: reserve, Disk: disk.Options{Reserve: -1, FlushEvery: -1},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// An end is one side of a connection.
type end struct {
	io.Reader
	io.WriteCloser
}

// Close ends both directions.
func (e end) Close() error {
	if c, ok := e.Reader.(io.Closer); ok {
		c.Close()
	}
	return e.WriteCloser.Close()
}

// connection gives the two ends of one: what one closes, the other sees end.
func connection(t testing.TB) (a, b end) {
	t.Helper()
	r1, w1, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r2, w2, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, f := range []*os.File{r1, w1, r2, w2} {
			f.Close()
		}
	})
	return end{r1, w2}, end{r2, w1}
}

func sources(chains ...storetest.Object) []transfer.Source {
	var out []transfer.Source
	seen := map[digest.Digest]bool{}
	for _, c := range chains {
		for i, o := range c.Chain() {
			kind := store.Layer
			if i == 0 {
				kind = store.Base
			}
			if !seen[o.Digest] {
				seen[o.Digest] = true
				out = append(out, transfer.Source{Kind: kind, Digest: o.Digest, Path: o.Path})
			}
		}
	}
	return out
}

func assignment(slot int, o storetest.Object) transfer.Assignment {
	return transfer.Assignment{Slot: slot, Base: o.Base().Digest, Layers: o.Layers(), Label: store.Label{Cluster: "homelab"}, Mode: store.Netboot}
}

// push runs both sides, and gives what each had of it.
func push(t testing.TB, s *store.Store, o transfer.Offer) (sent, got *transfer.Result, sendErr, receiveErr error) {
	t.Helper()
	return pushThrough(t, s, o, func(r io.Reader) io.Reader { return r })
}

// pushThrough has the receiver read what the sender says through f.
func pushThrough(t testing.TB, s *store.Store, o transfer.Offer, f func(io.Reader) io.Reader) (sent, got *transfer.Result, sendErr, receiveErr error) {
	t.Helper()
	a, b := connection(t)
	var wait sync.WaitGroup
	wait.Go(func() {
		got, receiveErr = transfer.Receive(t.Context(), end{f(b.Reader), b.WriteCloser}, s, nil)
		b.Close()
	})
	sent, sendErr = transfer.Send(t.Context(), a, o)
	a.Close()
	wait.Wait()
	return sent, got, sendErr, receiveErr
}

func TestPush(t *testing.T) {
	base := storetest.Base(t, baseSize, 1)
	docker := storetest.Layer(t, base, 2)
	p1, p2, p3 := storetest.Layer(t, docker, 3), storetest.Layer(t, docker, 4), storetest.Layer(t, docker, 5)
	s := openStore(t, t.TempDir(), -1)

	var told reports
	offer := transfer.Offer{By: "me@here", Objects: sources(p1, p2), Slots: []transfer.Assignment{assignment(1, p1), assignment(2, p2)}, Reporter: &told}
	sent, got, err, rerr := push(t, s, offer)
	if err != nil || rerr != nil {
		t.Fatal(err, rerr)
	}
	if sent.Sent >= sent.Data || sent.Data == 0 || sent.Data >= baseSize {
		t.Errorf("%d bytes were sent for %d", sent.Sent, sent.Data)
	}
	if len(sent.Stored) != 4 || len(sent.Present) != 0 {
		t.Errorf("%d objects stored, %d were there; want 4 and none", len(sent.Stored), len(sent.Present))
	}
	want := []transfer.SlotResult{{Slot: 1, Changed: true}, {Slot: 2, Changed: true}}
	if diff := cmp.Diff(want, sent.Slots); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(got.Stored, sent.Stored); diff != "" {
		t.Error(diff)
	}
	if text := told.String(); !strings.Contains(text, "send base") || !strings.Contains(text, "controller: verify layer") {
		t.Errorf("reported:\n%s", text)
	}
	st, err := s.State(2)
	if err != nil || st.Next == nil || st.Next.By != "me@here" || st.Next.Label.Cluster != "homelab" || st.Mode != store.Netboot {
		t.Fatalf("%+v, %v", st, err)
	}
	same(t, s, p2)
	info, err := os.Stat(filepath.Join(s.Dir(), "bases", base.Digest.Encoded()+".img"))
	if err != nil || info.Mode().Perm() != 0o400 {
		t.Fatalf("%v, %v", info, err)
	}
	u, err := s.Space()
	if err != nil {
		t.Fatal(err)
	}
	if o := u.Objects[0]; o.Digest != base.Digest || o.Stored > baseSize*3/4 {
		t.Errorf("%+v, though most of it is holes", o)
	}

	// What somebody chose on the controller stays.
	if err := s.Configure(t.Context(), 1, func(v *store.Settings) { v.Mode, v.Chosen = store.Off, true }); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if st, err := s.State(1); err != nil || st.Mode != store.Off {
			t.Errorf("%+v, %v", st, err)
		}
	}()

	// Another push of the same sends nothing; one layer more sends that.
	sent, _, err, rerr = push(t, s, offer)
	if err != nil || rerr != nil || sent.Data != 0 || len(sent.Present) != 4 || sent.Slots[0].Changed {
		t.Fatalf("%+v, %v, %v", sent, err, rerr)
	}
	offer = transfer.Offer{Objects: sources(p3)[2:], Slots: []transfer.Assignment{assignment(3, p3)}}
	sent, _, err, rerr = push(t, s, offer)
	if err != nil || rerr != nil || len(sent.Stored) != 1 {
		t.Fatalf("%+v, %v, %v", sent, err, rerr)
	}
	same(t, s, p3)
	if left, err := os.ReadDir(filepath.Join(s.Dir(), "incoming")); err != nil || len(left) != 0 {
		t.Errorf("left in incoming: %v, %v", left, err)
	}
}

// same boots the chain's slot and compares its disk with what was pushed.
func same(t *testing.T, s *store.Store, o storetest.Object) {
	t.Helper()
	var paths []string
	for _, l := range o.Chain()[1:] {
		paths = append(paths, l.Path)
	}
	chain, err := layer.OpenChain(o.Base().Path, o.Base().Digest, paths...)
	if err != nil {
		t.Fatal(err)
	}
	defer chain.Close()
	if _, err := s.Assign(t.Context(), 200, store.Root{Base: o.Base().Digest, Layers: o.Layers()}); err != nil {
		t.Fatal(err)
	}
	if err := s.Configure(t.Context(), 200, func(v *store.Settings) { v.Mode = store.Ephemeral }); err != nil {
		t.Fatal(err)
	}
	d, err := s.Boot(t.Context(), 200)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Remove(t.Context(), 200)
	defer s.Stopped(t.Context(), 200)
	defer d.Close()
	want, err := digest.FromReader(io.NewSectionReader(chain.Top(), 0, chain.Top().Size()))
	if err != nil {
		t.Fatal(err)
	}
	got, err := digest.FromReader(io.NewSectionReader(d, 0, d.Size()))
	if err != nil || got != want {
		t.Fatalf("the disk has the content %s, %v; want %s", got, err, want)
	}
}

// TestResume cuts the connection at every few hundred KiB, until a push comes
// through: each goes on where the one before it was durable.
func TestResume(t *testing.T) {
	o := storetest.Layer(t, storetest.Base(t, baseSize, 1), 2)
	s := openStore(t, t.TempDir(), -1)
	offer := transfer.Offer{Objects: sources(o), Slots: []transfer.Assignment{assignment(1, o)}}
	var data int64
	least := int64(1 << 62)
	for limit := int64(1 << 20); ; limit += 2 << 20 {
		sent, _, err, rerr := pushThrough(t, s, offer, func(r io.Reader) io.Reader { return io.LimitReader(r, limit) })
		if (err == nil) != (rerr == nil) {
			t.Fatal(err, rerr)
		}
		if err == nil {
			data = sent.Data
			break
		}
		if !strings.Contains(rerr.Error(), "ended") && !strings.Contains(rerr.Error(), "ends within") {
			t.Fatal(rerr)
		}
		least = min(least, limit)
	}
	same(t, s, o)
	whole, _, err, rerr := push(t, openStore(t, t.TempDir(), -1), offer)
	if err != nil || rerr != nil {
		t.Fatal(err, rerr)
	}
	if data > whole.Data*3/4 {
		t.Errorf("the last push sent %d bytes, one from the start %d: it did not go on", data, whole.Data)
	}
}

// flip changes a byte.
type flip struct {
	r  io.Reader
	at int64
}

func (f *flip) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if f.at >= 0 && f.at < int64(n) {
		p[f.at] ^= 0x10
	}
	f.at -= int64(n)
	return n, err
}

func TestDamage(t *testing.T) {
	base := storetest.Base(t, baseSize, 1)
	other := storetest.Base(t, baseSize, 7)
	o := storetest.Layer(t, base, 2)
	tampered := filepath.Join(t.TempDir(), "base.img")
	content, err := os.ReadFile(base.Path)
	if err != nil {
		t.Fatal(err)
	}
	content[len(content)/2] ^= 1
	if err := os.WriteFile(tampered, content, 0o600); err != nil {
		t.Fatal(err)
	}
	tamperedLayer := filepath.Join(t.TempDir(), "x.layer")
	content, err = os.ReadFile(o.Path)
	if err != nil {
		t.Fatal(err)
	}
	content[3*layer.BlockSize+77] ^= 1 // the first block of data
	if err := os.WriteFile(tamperedLayer, content, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		summary string
		offer   transfer.Offer
		through func(io.Reader) io.Reader
		want    []string // in the receiver's error, or the sender's where that comes first
		is      error
	}{
		{"a bit flipped on the way", transfer.Offer{Objects: sources(o)},
			func(r io.Reader) io.Reader { return &flip{r, 5 << 20} },
			[]string{"base " + string(base.Digest), "at byte ", "damaged on its way"}, store.ErrCorrupt},
		{"cut off", transfer.Offer{Objects: sources(o)},
			func(r io.Reader) io.Reader { return io.LimitReader(r, 5<<20) },
			[]string{"base " + string(base.Digest), "after byte "}, nil},
		{"a base that is another than it is said to be", transfer.Offer{Objects: []transfer.Source{{Kind: store.Base, Digest: base.Digest, Path: tampered}}}, nil,
			[]string{"base " + string(base.Digest), "its content has the digest"}, store.ErrCorrupt},
		{"a layer of which a bit is wrong", transfer.Offer{Objects: append(sources(base), transfer.Source{Kind: store.Layer, Digest: o.Digest, Path: tamperedLayer})}, nil,
			[]string{"layer " + string(o.Digest), "its content has the digest"}, layer.ErrCorrupt},
		{"a layer without its parent", transfer.Offer{Objects: sources(o)[1:]}, nil,
			[]string{"layer " + string(o.Digest), string(base.Digest), "not in the store"}, store.ErrMissing},
		{"a slot that shall boot a layer on another base", transfer.Offer{Objects: append(sources(o), sources(other)...),
			Slots: []transfer.Assignment{{Slot: 1, Base: other.Digest, Layers: []digest.Digest{o.Digest}}}}, nil,
			[]string{"p1", "wrong parent"}, layer.ErrWrongParent},
		{"a slot that shall boot what nobody has", transfer.Offer{Objects: sources(base),
			Slots: []transfer.Assignment{assignment(1, o)}}, nil,
			[]string{"p1", string(o.Digest), "not in the store"}, store.ErrMissing},
	} {
		t.Run(test.summary, func(t *testing.T) {
			s := openStore(t, t.TempDir(), -1)
			if test.through == nil {
				test.through = func(r io.Reader) io.Reader { return r }
			}
			_, _, err, rerr := pushThrough(t, s, test.offer, test.through)
			if err == nil {
				t.Fatal("the sender was told that all is well")
			}
			if rerr != nil && test.is == store.ErrCorrupt && !strings.Contains(err.Error(), test.want[1]) {
				t.Errorf("the sender was told %v", err)
			}
			if rerr == nil || strings.Contains(rerr.Error(), "did not answer") {
				rerr = err
			}
			for _, want := range test.want {
				if !strings.Contains(rerr.Error(), want) {
					t.Errorf("error %q, want one with %q", rerr, want)
				}
			}
			if test.is != nil && !errors.Is(rerr, test.is) {
				t.Errorf("%v is not %v", rerr, test.is)
			}
			if s.Has(store.Layer, o.Digest) {
				t.Error("the layer is in the store")
			}
			if errors.Is(rerr, store.ErrMissing) && s.Has(store.Base, base.Digest) {
				t.Error("it was sent before what lacks was noticed")
			}
		})
	}
}

// TestLastWords has the sender told why the receiver gave up, though it
// cannot send any more.
func TestLastWords(t *testing.T) {
	base := storetest.Base(t, baseSize, 1)
	s := openStore(t, t.TempDir(), 1<<60)
	_, _, err, rerr := push(t, s, transfer.Offer{Objects: sources(base)})
	var remote *transfer.RemoteError
	if !errors.As(err, &remote) || !strings.Contains(err.Error(), "not enough room") {
		t.Errorf("the sender got %v", err)
	}
	if !errors.Is(rerr, syscall.ENOSPC) {
		t.Errorf("the receiver got %v", rerr)
	}
}

// TestBrokenPipe has the receiver say why it gave up, and listen no more.
func TestBrokenPipe(t *testing.T) {
	base := storetest.Base(t, baseSize, 1)
	r, w := io.Pipe()
	deaf := make(chan struct{})
	go func() {
		io.WriteString(w, "hatchery receive 1\n")
		<-deaf
		time.Sleep(50 * time.Millisecond) // the sender has noticed by now, most likely
		w.Write(transfer.Frame{Type: 7, Payload: []byte(`{"message":"the card is full"}`)}.Encode())
	}()
	_, err := transfer.Send(t.Context(), end{r, &mute{after: 1, told: deaf}}, transfer.Offer{Objects: sources(base)})
	var remote *transfer.RemoteError
	if !errors.As(err, &remote) || remote.Message != "the card is full" {
		t.Fatalf("%v", err)
	}
}

// mute takes some writes, and no more.
type mute struct {
	after int
	told  chan struct{}
}

func (m *mute) Write(p []byte) (int, error) {
	if m.after--; m.after >= 0 {
		return len(p), nil
	}
	if m.after == -1 {
		close(m.told)
	}
	return 0, syscall.EPIPE
}

func (m *mute) Close() error { return nil }

// TestStranger has something else than hatchery at the other end.
func TestStranger(t *testing.T) {
	base := storetest.Base(t, 1<<20, 1)
	for _, test := range []struct{ summary, says, want string }{
		{"nothing", "", "did not answer"},
		{"another program", "bash: no such thing\n", "no such thing"},
		{"another version", "hatchery receive none 7-9\n", "7-9"},
		{"noise without end", strings.Repeat("a", 64<<10), "does not answer as hatchery does"},
		{"lines without end", strings.Repeat("a\n", 64<<10), "does not answer as hatchery does"},
		{"what is no frame", "hello\nhatchery receive 1\n" + strings.Repeat("x", 100), "damaged on its way"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			rw := end{strings.NewReader(test.says), nopCloser{io.Discard}}
			_, err := transfer.Send(t.Context(), rw, transfer.Offer{Objects: sources(base)})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("error %v, want one with %q", err, test.want)
			}
		})
	}
	s := openStore(t, t.TempDir(), -1)
	for _, test := range []struct{ summary, says, want string }{
		{"nothing", "", "did not answer"},
		{"another program", "GET / HTTP/1.1\n", "GET /"},
		{"another version", "hatchery push 7-9\n", "versions 7 to 9"},
		{"no version", "hatchery push me\n", "which versions"},
		{"silence after the greeting", "hatchery push 1-1\n", "ended the connection"},
	} {
		t.Run("receive/"+test.summary, func(t *testing.T) {
			rw := end{strings.NewReader(test.says), nopCloser{io.Discard}}
			_, err := transfer.Receive(t.Context(), rw, s, nil)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("error %v, want one with %q", err, test.want)
			}
		})
	}
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// TestGreetingBefore has a shell that says something before hatchery does.
func TestGreetingBefore(t *testing.T) {
	base := storetest.Base(t, 1<<20, 1)
	s := openStore(t, t.TempDir(), -1)
	a, b := connection(t)
	done := make(chan error, 1)
	go func() {
		io.WriteString(b, "Welcome to hammond!\n\nHave fun.\n")
		_, err := transfer.Receive(context.Background(), b, s, nil)
		done <- err
	}()
	if _, err := transfer.Send(t.Context(), a, transfer.Offer{Objects: sources(base)}); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// TestSideBySide pushes several things at once.
func TestSideBySide(t *testing.T) {
	base := storetest.Base(t, baseSize, 1)
	dir := t.TempDir()
	var wait sync.WaitGroup
	for slot := 1; slot <= 4; slot++ {
		o := storetest.Layer(t, base, uint64(slot+10))
		s := openStore(t, dir, -1) // each as a process of its own
		wait.Go(func() {
			_, _, err, rerr := push(t, s, transfer.Offer{Objects: sources(o), Slots: []transfer.Assignment{assignment(slot, o)}})
			if err != nil || rerr != nil {
				t.Error(err, rerr)
			}
		})
	}
	wait.Wait()
	s := openStore(t, dir, -1)
	for slot := 1; slot <= 4; slot++ {
		if st, err := s.State(slot); err != nil || st.Next == nil {
			t.Errorf("p%d: %+v, %v", slot, st, err)
		}
	}
}

// TestCancel ends a push from either side.
func TestCancel(t *testing.T) {
	base := storetest.Base(t, baseSize, 1)
	s := openStore(t, t.TempDir(), -1)
	a, _ := connection(t) // nobody answers
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := transfer.Send(ctx, a, transfer.Offer{Objects: sources(base)}); !errors.Is(err, context.Canceled) {
		t.Errorf("send: %v", err)
	}
	if _, err := transfer.Receive(ctx, a, s, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("receive: %v", err)
	}
}

// reports keeps the names of what was reported.
type reports struct {
	mu    sync.Mutex
	names []string
}

func (r *reports) Begin(name string, total int64) progress.Task {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.names = append(r.names, name)
	return progress.Discard.Begin(name, total)
}

func (r *reports) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.names, "\n")
}
