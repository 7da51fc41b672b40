package controller_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"hatchery/controller"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/enrol"
)

// A sample is what a process has, after so many joins.
type sample struct {
	Joins      int     `json:"joins"`
	Seconds    float64 `json:"seconds"`
	Heap       int64   `json:"heap"` // bytes in use, after a collection
	RSS        int64   `json:"rss"`  // bytes
	Goroutines int     `json:"goroutines"`
	Files      int     `json:"files"`
}

// sampleSelf is this process's.
func sampleSelf() sample {
	debug.FreeOSMemory() // which collects twice over
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	s := sample{Heap: int64(m.HeapAlloc), Goroutines: runtime.NumGoroutine()}
	if files, err := os.ReadDir("/proc/self/fd"); err == nil {
		s.Files = len(files)
	}
	if status, err := os.ReadFile("/proc/self/status"); err == nil {
		for line := range strings.Lines(string(status)) {
			if f := strings.Fields(line); len(f) == 3 && f[0] == "VmRSS:" {
				kb, _ := strconv.ParseInt(f[1], 10, 64)
				s.RSS = kb << 10
			}
		}
	}
	return s
}

// slope is how much something grows with each join: the median of the slopes between all
// pairs of samples, so that a few that are off say nothing (Theil and Sen).
func slope(samples []sample, of func(sample) float64) float64 {
	var all []float64
	for i, a := range samples {
		for _, b := range samples[i+1:] {
			if b.Joins != a.Joins {
				all = append(all, (of(b)-of(a))/float64(b.Joins-a.Joins))
			}
		}
	}
	if len(all) == 0 {
		return math.NaN()
	}
	slices.Sort(all)
	return all[len(all)/2]
}

func heapOf(s sample) float64 { return float64(s.Heap) }

// What a join may leave behind for ever: on average, and so that a struct a join is seen.
const (
	heapPerJoin       = 128.0  // bytes
	rssPerJoin        = 2048.0 // bytes: the allocator's and the kernel's pages are coarse
	goroutinesPerJoin = 0.005
	filesPerJoin      = 0.005
)

// growth says what of a process grows with the joins, "" for nothing.
func growth(samples []sample) string {
	var grows []string
	for _, g := range []struct {
		what string
		most float64
		of   func(sample) float64
	}{
		{"heap", heapPerJoin, heapOf},
		{"resident memory", rssPerJoin, func(s sample) float64 { return float64(s.RSS) }},
		{"goroutines", goroutinesPerJoin, func(s sample) float64 { return float64(s.Goroutines) }},
		{"open files", filesPerJoin, func(s sample) float64 { return float64(s.Files) }},
	} {
		if by := slope(samples, g.of); !(by <= g.most) {
			grows = append(grows, fmt.Sprintf("%s by %.3f a join, more than %.3f", g.what, by, g.most))
		}
	}
	return strings.Join(grows, "; ")
}

// TestGrowthIsSeen has samples with leaks judged, with as much noise as real ones have.
func TestGrowthIsSeen(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	made := func(leak func(s *sample, joins int)) []sample {
		var all []sample
		for joins := 1000; joins <= 4000; joins += 250 {
			s := sample{Joins: joins, Heap: 6<<20 + r.Int64N(64<<10), RSS: 40<<20 + r.Int64N(2<<20), Goroutines: 30 + r.IntN(3), Files: 12 + r.IntN(2)}
			leak(&s, joins)
			all = append(all, s)
		}
		return all
	}
	for _, tt := range []struct {
		summary string
		leak    func(s *sample, joins int)
		want    string
	}{
		{"nothing", func(*sample, int) {}, ""},
		{"a sample that is far off", func(s *sample, joins int) {
			if joins == 2000 {
				s.Heap, s.RSS, s.Goroutines, s.Files = 5*s.Heap, 2*s.RSS, 10*s.Goroutines, 10*s.Files
			}
		}, ""},
		{"a struct a join", func(s *sample, joins int) { s.Heap += int64(256 * joins) }, "heap"},
		{"a page a join", func(s *sample, joins int) { s.RSS += int64(4096 * joins) }, "resident memory"},
		{"a goroutine in a hundred joins", func(s *sample, joins int) { s.Goroutines += joins / 100 }, "goroutines"},
		{"a file in a hundred joins", func(s *sample, joins int) { s.Files += joins / 100 }, "open files"},
	} {
		got := growth(made(tt.leak))
		if tt.want == "" && got != "" || !strings.HasPrefix(got, tt.want) || strings.Contains(got, ";") {
			t.Errorf("%s: %q, want %q", tt.summary, got, tt.want)
		}
	}
	if got := growth(nil); got == "" {
		t.Error("no samples are judged as flat")
	}

	// A leak of the real kind, measured as the service's memory is.
	var leaked [][]byte
	var samples []sample
	for joins := 0; joins <= 4000; joins++ {
		if leaked = append(leaked, make([]byte, 256)); joins%500 == 0 {
			s := sampleSelf()
			s.Joins = joins
			samples = append(samples, s)
		}
	}
	runtime.KeepAlive(leaked)
	if by := slope(samples, heapOf); by < heapPerJoin || by > 1024 {
		t.Errorf("a leak of 256 bytes is measured as one of %.0f", by)
	}
}

// comeAndGo are nodes that join and leave for a time; samples of the service are printed as JSON. The folder, the seconds, and how many
// joins there are between two samples.
func comeAndGo(ctx context.Context, args []string) error {
	dir := args[0]
	lasts, err := time.ParseDuration(args[1])
	if err != nil {
		return err
	}
	batch, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	engine := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(dir, "engine"))
	}}}
	clients := make([]*enrol.Client, comers+1)
	for slot := 1; slot <= comers; slot++ {
		id, err := enrol.LoadIdentity(filepath.Join(dir, fmt.Sprintf("p%d", slot)))
		if err != nil {
			return err
		}
		clients[slot] = enrol.NewClient(id, clusterctrl.ControllerAddr(), enrol.ClientOptions{Local: clusterctrl.SlotAddr(slot)})
	}
	var samples []sample
	began, joins := time.Now(), 0
	for time.Since(began) < lasts || joins < warmUp+8*batch {
		errs := make(chan error, batch)
		limit := make(chan struct{}, 8)
		var wg sync.WaitGroup
		for range batch {
			joins++
			// A card that is new, or another boot of it, comes every eighth time: more often the
			// service does not take it.
			slot, boot, seq := 1+joins%comers, fmt.Sprintf("boot-%d", joins/comers/8), int64(10*joins)
			limit <- struct{}{}
			wg.Go(func() {
				defer func() { <-limit }()
				errs <- visit(ctx, engine, clients[slot], slot, boot, seq)
			})
		}
		wg.Wait()
		close(errs)
		for err := range errs {
			if err != nil {
				return err
			}
		}
		// Nobody is connected when it is measured.
		time.Sleep(500 * time.Millisecond)
		answer, err := engine.Get("http://engine/sample")
		if err != nil {
			return err
		}
		content, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil {
			return err
		}
		var s sample
		if err := json.Unmarshal(content, &s); err != nil {
			return err
		}
		s.Joins, s.Seconds = joins, time.Since(began).Seconds()
		samples = append(samples, s)
	}
	return json.NewEncoder(os.Stdout).Encode(samples)
}

// visit is one node's life: from its first words to its last.
func visit(ctx context.Context, engine *http.Client, client *enrol.Client, slot int, boot string, seq int64) error {
	defer client.Reset()
	member := enrol.SwarmState{State: "inactive"}
	for i, step := range []string{"link", "docker"} {
		if err := patiently(ctx, func() error {
			_, err := client.Status(ctx, enrol.StatusReport{BootID: boot, Seq: seq + int64(i), Step: step, Swarm: member})
			return err
		}); err != nil {
			return fmt.Errorf("slot %d, %s: %w", slot, step, err)
		}
	}
	var answer *enrol.JoinAnswer
	err := patiently(ctx, func() (err error) {
		answer, err = client.Join(ctx, enrol.JoinRequest{BootID: boot, Swarm: member})
		return err
	})
	if err != nil {
		return fmt.Errorf("slot %d joins: %w", slot, err)
	}
	if answer.JoinToken == "" {
		return fmt.Errorf("slot %d is told to %s", slot, answer.Action)
	}
	r, err := engine.Post(fmt.Sprintf("http://engine/join?token=%s&addr=%s", string(answer.JoinToken), answer.AdvertiseAddr), "", nil)
	if err != nil {
		return err
	}
	node, err := io.ReadAll(r.Body)
	r.Body.Close()
	if err != nil || r.StatusCode != http.StatusOK {
		return fmt.Errorf("slot %d: %s %v", slot, node, err)
	}
	member = enrol.SwarmState{State: "active", NodeID: string(node), ClusterID: answer.ClusterID}
	var a *enrol.StatusAnswer
	err = patiently(ctx, func() (err error) {
		a, err = client.Status(ctx, enrol.StatusReport{BootID: boot, Seq: seq + 9, Step: "steady", State: enrol.StateDone, Swarm: member})
		return err
	})
	if err == nil && a.Rejoin {
		err = fmt.Errorf("slot %d is told to join again", slot)
	}
	if err != nil {
		return err
	}
	// It is gone: the swarm finds that out.
	if r, err = engine.Post("http://engine/leave?node="+string(node), "", nil); err == nil {
		r.Body.Close()
	}
	return err
}

// patiently does something again where it comes too soon after what the slot did before:
// no node is as quick as these.
func patiently(ctx context.Context, do func() error) error {
	for {
		err := do()
		var refused *enrol.Error
		if !errors.As(err, &refused) || refused.Code != controller.TooMany {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// TestFlat has nodes join and leave at a process with the service for half a minute, and
// with HATCHERY_SOAK=1 for an hour: what the service has does not grow with the joins.
func TestFlat(t *testing.T) {
	dir, space, service := manySlots(t)
	lasts, batch := 30*time.Second, 2*comers
	if os.Getenv("HATCHERY_SOAK") == "1" {
		lasts, batch = time.Hour, 20*comers
		if text := os.Getenv("HATCHERY_SOAK_TIME"); text != "" {
			var err error
			if lasts, err = time.ParseDuration(text); err != nil {
				t.Fatal(err)
			}
		}
	}
	var samples []sample
	if err := json.Unmarshal([]byte(space.Output(space.Self(t.Context(), "comers", dir, lasts.String(), strconv.Itoa(batch)))), &samples); err != nil {
		t.Fatal(err)
	}
	for _, s := range samples {
		t.Logf("%6d joins, %5.1f s: %.2f MB heap, %.1f MB resident, %d goroutines, %d files", s.Joins, s.Seconds, float64(s.Heap)/1e6, float64(s.RSS)/1e6, s.Goroutines, s.Files)
	}
	// Until every slot was there often, what is remembered of each fills up.
	warm := slices.IndexFunc(samples, func(s sample) bool { return s.Joins >= warmUp })
	if warm < 0 || len(samples)-warm < 5 {
		t.Fatalf("%d samples are too few after %d joins", len(samples), warmUp)
	}
	last := samples[len(samples)-1]
	t.Logf("after %d joins, with each: heap %+.1f bytes, resident %+.1f bytes", samples[warm].Joins, slope(samples[warm:], heapOf), slope(samples[warm:], func(s sample) float64 { return float64(s.RSS) }))
	if grows := growth(samples[warm:]); grows != "" {
		t.Errorf("the service grows: %s", grows)
	}
	if peak := peakMemory(t, service.Pid()); peak > memoryLimit {
		t.Errorf("after %d joins the service took %d MB, more than %d", last.Joins, peak>>20, memoryLimit>>20)
	}
	v, err := controller.Dial(filepath.Join(dir, "s")).Cluster(t.Context())
	if err != nil || len(v.Alarms) > 0 {
		t.Errorf("the service says %v, %v", v, err)
	}
}

// comers is how many slots come and go, warmUp how many joins are not judged.
const (
	comers = 48
	warmUp = 18 * comers
)
