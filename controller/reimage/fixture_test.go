package reimage_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hatchery/controller/reimage"
	"hatchery/internal/enrol"
	"hatchery/internal/enrol/enroltest"
	"hatchery/internal/layer"
	"hatchery/internal/nodefile"
	wire "hatchery/internal/reimage"
	"hatchery/netboot/store"
)

const (
	slot = 2
	mib  = 1 << 20
	// The image: a table, a boot partition and a root that are no file systems, so that all
	// of them is in use.
	imageSize           = 8*mib + 512
	bootStart, bootSize = 4 * mib, 2 * mib
	rootStart, rootSize = 6 * mib, 2*mib + 512
	agentBoot, nextBoot = "boot-1", "boot-2"
	thirdBoot           = "boot-3"
	deadline            = time.Minute
)

func succeed(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// table is an MBR with both partitions.
func table() []byte {
	b := make([]byte, 512)
	for i, e := range [][2]uint32{{bootStart / 512, bootSize / 512}, {rootStart / 512, rootSize / 512}} {
		p := b[446+16*i:]
		p[4] = []byte{0x0c, 0x83}[i]
		binary.LittleEndian.PutUint32(p[8:], e[0])
		binary.LittleEndian.PutUint32(p[12:], e[1])
	}
	b[0], b[510], b[511] = 0xfa, 0x55, 0xaa
	return b
}

// image is a whole image's content.
func image(seed byte) []byte {
	b := make([]byte, imageSize)
	copy(b, table())
	rand.NewChaCha8([32]byte{seed}).Read(b[bootStart:])
	return b
}

// A world is a controller's service, and a node in the slot.
type world struct {
	t       *testing.T
	dir     string
	cluster enroltest.Cluster
	store   *store.Store
	roots   map[string]store.Root
	images  map[string][]byte
	times   reimage.Times
	cycle   func(context.Context, int) error
	least   int // the least generation that the controller has heard of
	known   int // the slot's generation in node.json
	log     *slog.Logger

	s      *reimage.Service
	stop   func()
	calls  *enroltest.Service
	client *http.Client
	agent  *agent

	mu   sync.Mutex
	told []string
}

// An agent is a node's end of being armed.
type agent struct {
	listener net.Listener
	mu       sync.Mutex
	boot     string
	armed    int
	answer   func(w http.ResponseWriter) bool // says whether it answered in place of the node
	arms     chan string                      // operations
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{
		t: t, dir: t.TempDir(), cluster: enroltest.NewCluster(t, "homelab"), roots: map[string]store.Root{}, images: map[string][]byte{},
		times: reimage.Times{Retry: 20 * time.Millisecond},
	}
	var err error
	w.store, err = store.Open(filepath.Join(w.dir, "store"), store.Options{Run: filepath.Join(w.dir, "run"), Reserve: -1})
	succeed(t, err)
	t.Cleanup(func() { w.store.Close() })
	// A is a base, B a layer over it.
	a := image(1)
	base, err := w.store.AddBase(context.Background(), bytes.NewReader(a), store.Import{Name: "a"})
	succeed(t, err)
	w.roots["A"], w.images["A"] = store.Root{Base: base, Slot: slot}, a
	succeed(t, os.WriteFile(filepath.Join(w.dir, "base"), a, 0o600))
	b := bytes.Clone(a)
	copy(b[rootStart+5000:], "what is new in B")
	w.addRoot("B", b)
	w.agent = &agent{boot: agentBoot, arms: make(chan string, 100)}
	w.agent.listener, err = net.Listen("tcp4", "127.0.0.1:0")
	succeed(t, err)
	server := enrol.NewServer(w.cluster.Slot(t, slot), w.agent, slog.New(slog.DiscardHandler))
	done := make(chan error, 1)
	go func() { done <- server.ServeTLS(w.agent.listener, "", "") }()
	t.Cleanup(func() { server.Close(); <-done })
	w.start()
	t.Cleanup(func() { w.stop() })
	return w
}

// addRoot adds an image that is a layer over A.
func (w *world) addRoot(name string, content []byte) {
	w.t.Helper()
	base := w.roots["A"].Base
	layers := []digest.Digest{w.addLayer(filepath.Join(w.dir, "base"), base, content)}
	w.roots[name], w.images[name] = store.Root{Base: base, Slot: slot, Layers: layers}, content
}

func (w *world) root(name string) *store.Root {
	r := w.roots[name]
	return &r
}

// addLayer seals what differs from a base as a layer, and adds it.
func (w *world) addLayer(path string, d digest.Digest, content []byte) digest.Digest {
	w.t.Helper()
	base, err := layer.OpenBase(path, d)
	succeed(w.t, err)
	defer base.Close()
	place := filepath.Join(w.dir, fmt.Sprintf("%x.layer", sha256.Sum256(content)))
	l, err := layer.Create(place, base, base.Size())
	succeed(w.t, err)
	was := make([]byte, 4096)
	for at := int64(0); at < base.Size(); at += int64(len(was)) {
		p := content[at:min(at+int64(len(was)), base.Size())]
		_, err := base.ReadAt(was[:len(p)], at)
		succeed(w.t, err)
		if !bytes.Equal(was[:len(p)], p) {
			_, err := l.WriteAt(p, at)
			succeed(w.t, err)
		}
	}
	_, err = l.Seal()
	succeed(w.t, err)
	succeed(w.t, l.Close())
	f, err := os.Open(place)
	succeed(w.t, err)
	defer f.Close()
	sealed, err := w.store.AddLayer(context.Background(), f, store.Import{Name: "layer"})
	succeed(w.t, err)
	return sealed
}

// start starts the service, as the controller does.
func (w *world) start() {
	w.t.Helper()
	port := netip.MustParseAddrPort(w.agent.listener.Addr().String()).Port()
	s, err := reimage.New(reimage.Options{
		Node: &nodefile.Node{Cluster: "homelab", Role: nodefile.Controller, Targets: []nodefile.Target{
			{Name: "controller", Address: netip.MustParseAddr("127.0.0.1")},
			{Name: "p2", Slot: slot, Address: netip.MustParseAddr("127.0.0.1"), Generation: w.known},
		}},
		Identity: w.cluster.Slot(w.t, 0), Store: w.store, Dir: filepath.Join(w.dir, "service"), Port: port, Cycle: w.cycle, Times: w.times, Log: w.log,
		Least: func(n int) int {
			if n != slot {
				w.t.Errorf("the generation of slot %d was asked for", n)
			}
			return w.least
		},
	})
	succeed(w.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	mux := http.NewServeMux()
	for pattern, call := range s.Calls() {
		mux.HandleFunc(pattern, func(rw http.ResponseWriter, r *http.Request) {
			peer, err := enrol.PeerOfRequest(r)
			if err != nil {
				w.t.Error(err)
			}
			call(rw, r, peer.Slot)
		})
	}
	w.s = s
	w.calls = enroltest.Serve(w.t, w.cluster.Slot(w.t, 0), mux, nil)
	w.client = w.calls.Client(w.cluster.Slot(w.t, slot), enrol.ClientOptions{}).HTTP()
	stopped := false
	w.stop = func() {
		if !stopped {
			stopped = true
			cancel()
			succeed(w.t, <-done)
		}
	}
}

// restart is the service's end, as a kill would have it for what it keeps, and its next run.
func (w *world) restart() {
	w.t.Helper()
	w.stop()
	w.start()
}

func (a *agent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var body wire.Arm
	if r.URL.Path != wire.PathArm || enrol.ReadBody(w, r, &body, 1<<10) != nil || body.Check() != nil {
		http.Error(w, "not this", http.StatusBadRequest)
		return
	}
	if peer, err := enrol.PeerOfRequest(r); err != nil || peer.Slot != 0 {
		http.Error(w, "not you", http.StatusForbidden)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.answer != nil && a.answer(w) {
		return
	}
	a.armed++
	enrol.WriteJSON(w, http.StatusAccepted, &wire.Armed{BootID: a.boot})
	a.arms <- body.Operation
}

func (w *world) assign(name string) {
	w.t.Helper()
	_, err := w.store.Assign(context.Background(), slot, w.roots[name])
	succeed(w.t, err)
}

// state is what the store has of the slot: "B+ before A+".
func (w *world) state() string {
	w.t.Helper()
	st, err := w.store.State(slot)
	succeed(w.t, err)
	name := func(r *store.Root) string {
		for n, other := range w.roots {
			if r.Same(&other) {
				return n
			}
		}
		return "?"
	}
	out := "nothing"
	if st.Current != nil {
		out = name(&st.Current.Root)
		if st.Current.Ready {
			out += "+"
		}
	}
	if st.Next != nil {
		out += " next " + name(st.Next)
	}
	if st.Previous != nil {
		out += " before " + name(&st.Previous.Root)
	}
	return out
}

func (w *world) tell(step, detail string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told = append(w.told, step+": "+detail)
}

func (w *world) saidSteps() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.told, "\n")
}

// reimage begins, and gives what it ends with.
func (w *world) reimage(ctx context.Context) <-chan error {
	s, done := w.s, make(chan error, 1)
	go func() { done <- s.Reimage(ctx, slot, w.tell) }()
	return done
}

func (w *world) undo(ctx context.Context) <-chan error { return w.undoTo(ctx, "") }

// undoTo goes back to a root, by its name; "" is the one before.
func (w *world) undoTo(ctx context.Context, name string) <-chan error {
	w.t.Helper()
	to := name
	if _, ok := w.roots[name]; ok {
		to = w.root(name).Digest().String()
	}
	s, done := w.s, make(chan error, 1)
	go func() { done <- s.UndoTo(ctx, slot, to, w.tell) }()
	return done
}

// armed waits until the node was asked, and the service has its answer.
func (w *world) armed() {
	w.t.Helper()
	await(w.t, "arming", w.agent.arms)
	eventually(w.t, "the answer of the node that was armed", func() bool { return w.phase() != reimage.Arming })
}

// goOn is reimage for a card that is begun: when it returns, somebody is at work with it.
func (w *world) goOn(ctx context.Context) <-chan error {
	w.t.Helper()
	before := w.saidSteps()
	done := w.reimage(ctx)
	eventually(w.t, "going on", func() bool { return w.saidSteps() != before })
	return done
}

// await waits for a result.
func await[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(deadline):
		t.Fatalf("%s does not come", what)
		panic("not reached")
	}
}

// eventually waits for a state.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(deadline); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s does not come", what)
		}
	}
}

// call makes a node's call.
func (w *world) call(method, path string, body any) (int, []byte) {
	w.t.Helper()
	var content io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		succeed(w.t, err)
		content = bytes.NewReader(data)
	}
	request, err := http.NewRequest(method, "https://"+w.calls.Where.String()+path, content)
	succeed(w.t, err)
	answer, err := w.client.Do(request)
	succeed(w.t, err)
	defer answer.Body.Close()
	data, err := io.ReadAll(answer.Body)
	succeed(w.t, err)
	return answer.StatusCode, data
}

// errNothing is what a node finds that has nothing to write.
var errNothing = errors.New("nothing is to be written")

// wanted asks for the image.
func (w *world) wanted(query string) (*wire.Image, error) {
	w.t.Helper()
	for {
		status, data := w.call(http.MethodGet, wire.PathImage+query, nil)
		switch status {
		case http.StatusNotFound:
			return nil, errNothing
		case http.StatusServiceUnavailable:
			time.Sleep(10 * time.Millisecond)
			continue
		case http.StatusOK:
			i := new(wire.Image)
			return i, json.Unmarshal(data, i)
		}
		return nil, fmt.Errorf("%d %s", status, data)
	}
}

// writeCard does what cmd/reimage does, on a card in memory, up to its last word.
func (w *world) writeCard(card []byte, image *wire.Image) (fetched int) {
	w.t.Helper()
	at := wire.PathImage + "/" + image.List
	status, raw := w.call(http.MethodGet, at+wire.PathDigests, nil)
	if status != http.StatusOK {
		w.t.Fatalf("the list: %d %s", status, raw)
	}
	list, err := wire.ParseList(raw, image)
	succeed(w.t, err)
	var wanted wire.Wanted
	var pieces []int
	for i := range list.Len() {
		off, n := list.Span(i)
		if !list.Free(i) && sha256.Sum256(card[off:off+int64(n)]) != list.Sum(i) {
			wanted.Runs, pieces = append(wanted.Runs, [2]int64{int64(i), 1}), append(pieces, i)
		}
	}
	w.progress(image, wire.Progress{State: wire.Writing, Total: int64(len(pieces)) * wire.Piece}, http.StatusOK)
	if len(pieces) == 0 {
		return 0
	}
	status, data := w.call(http.MethodPost, at+wire.PathPieces, &wanted)
	if status != http.StatusOK {
		w.t.Fatalf("the pieces: %d %s", status, data)
	}
	for _, i := range pieces {
		off, n := list.Span(i)
		if len(data) < n || sha256.Sum256(data[:n]) != list.Sum(i) {
			w.t.Fatalf("piece %d is another", i)
		}
		copy(card[off:], data[:n])
		data = data[n:]
	}
	if len(data) > 0 {
		w.t.Fatalf("%d bytes too many", len(data))
	}
	return len(pieces)
}

func (w *world) progress(image *wire.Image, p wire.Progress, want int) {
	w.t.Helper()
	if status, data := w.call(http.MethodPost, wire.PathImage+"/"+image.List+wire.PathProgress, &p); status != want {
		w.t.Fatalf("progress %s: %d %s, want %d", p.State, status, data, want)
	}
}

func (w *world) phase() string {
	if v := w.s.View(slot); v != nil {
		return v.Phase
	}
	return ""
}
