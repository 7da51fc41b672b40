//go:build linux

package clustertest_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hatchery/controller/clustertest"
	"hatchery/controller/operation"
	"hatchery/internal/enginetest"
	"hatchery/internal/nodefile"
	"hatchery/internal/swarm"
	"hatchery/internal/testtool"
)

// webPort is where replica n of the service listens, in its node's own network:
// webPort + n.
const webPort = 8000

// webProgram says hello on the port that its replica has.
const webProgram = `package main

import (
	"io"
	"net/http"
	"os"
)

func main() {
	panic(http.ListenAndServe(":"+os.Getenv("PORT"), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "hello")
	})))
}
`

// webImage is an archive of an image of that program, as docker save writes one.
func webImage(t *testing.T, name string) []byte {
	t.Helper()
	dir := t.TempDir()
	source, program := filepath.Join(dir, "main.go"), filepath.Join(dir, "web")
	must(t, os.WriteFile(source, []byte(webProgram), 0o600))
	build := exec.CommandContext(t.Context(), testtool.Need(t, "go"), "build", "-o", program, source)
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GO111MODULE=off")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	content, err := os.ReadFile(program)
	must(t, err)
	pack := func(name string, mode int64, content []byte, more ...[]byte) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for i, c := range append([][]byte{content}, more...) {
			if i > 0 {
				name = []string{"", "layer.tar", "manifest.json"}[i]
			}
			must(t, w.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(c))}))
			_, err := w.Write(c)
			must(t, err)
		}
		must(t, w.Close())
		return b.Bytes()
	}
	layer := pack("web", 0o755, content)
	sum := sha256.Sum256(layer)
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "config": map[string]any{"Entrypoint": []string{"/web"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(sum[:])}},
	})
	must(t, err)
	manifest, err := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": []string{name}, "Layers": []string{"layer.tar"}}})
	must(t, err)
	return pack("config.json", 0o644, config, layer, manifest)
}

// A factory renews roots as the harness does it: a slot is switched off, its card is
// written anew, and it is switched on. The test itself does it.
type factory struct {
	orders chan order
}

type order struct {
	slot int
	done chan struct{}
}

func (f *factory) Kind() string                     { return "card" }
func (f *factory) Check(context.Context, int) error { return nil }
func (f *factory) Undo(context.Context, int, string, operation.Tell) error {
	return errors.New("there is nothing before")
}
func (f *factory) Plan(context.Context, int) (operation.Plan, error) { return operation.Plan{}, nil }

func (f *factory) Renew(ctx context.Context, slot int, tell operation.Tell) error {
	tell("write", "")
	o := order{slot, make(chan struct{})}
	select {
	case f.orders <- o:
	case <-ctx.Done():
		return ctx.Err()
	}
	<-o.done
	return nil
}

// web are the tasks of the service that are there, by their replicas.
func web(t *testing.T, c *clustertest.Cluster) map[int]swarm.Task {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	list, err := c.Controller.Engine().Tasks(ctx, "")
	must(t, err)
	tasks := map[int]swarm.Task{}
	for _, task := range list {
		if task.There() && task.State == "running" && task.Desired == "running" {
			tasks[task.Replica] = task
		}
	}
	return tasks
}

// ask asks a replica on a machine, from the controller.
func ask(c *clustertest.Cluster, m *enginetest.Machine, replica int) error {
	return c.Controller.Do(func() error {
		// The connection is made here: this thread alone is in the machine.
		conn, err := net.DialTimeout("tcp", fmt.Sprintf("%s:%d", m.Addr, webPort+replica), 30*time.Second)
		if err != nil {
			return err
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
		if _, err := io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n"); err != nil {
			return err
		}
		answer, err := io.ReadAll(conn)
		if err == nil && !bytes.HasSuffix(answer, []byte("hello")) {
			err = fmt.Errorf("it says %q", answer)
		}
		return err
	})
}

// TestRebuiltUnderService rebuilds p2 while a service has a replica on it: the
// others answer all the time and are not started again, its own runs elsewhere, and
// p2 is what it was. The service that does it is killed in between, and a second
// operator is told.
func TestRebuiltUnderService(t *testing.T) {
	t.Parallel()
	c := homestead(t, clustertest.Options{Slots: []int{1, 2, 3}, Labels: map[int]map[string]string{2: {"disk": "ssd"}}})
	docker(t, c, "node", "update", "--label-add", "rack=top", "p2")
	more := map[int]string{2: "rack=top"}
	before := ids(c.WaitTable(c.Settled(more)))
	image := webImage(t, "hatchery.test/web:1")
	for _, m := range c.Slots() {
		must(t, m.Engine().LoadImages(t.Context(), bytes.NewReader(image)))
	}
	docker(t, c, "service", "create", "--detach", "--no-resolve-image", "--replicas", "3", "--name", "web", "--network", "host",
		"--constraint", "node.role==worker", "--env", "PORT=800{{.Task.Slot}}", "--stop-grace-period", "2s", "hatchery.test/web:1")
	until(t, "three replicas on three nodes", func() bool {
		on := map[string]bool{}
		for _, task := range web(t, c) {
			on[task.NodeID] = true
		}
		return len(on) == 3
	})
	had := web(t, c)
	places := map[int]*enginetest.Machine{} // of the replicas that nothing is to happen to
	for replica, task := range had {
		for _, m := range c.Slots() {
			if before[m.Name] == task.NodeID && m.Slot != 2 {
				places[replica] = m
			}
		}
	}
	if len(places) != 2 {
		t.Fatalf("the replicas are %+v on %v", had, before)
	}
	for replica, m := range places {
		until(t, "it to answer", func() bool { return ask(c, m, replica) == nil })
	}

	// They are asked all the time.
	stop := make(chan struct{})
	var asking sync.WaitGroup
	defer asking.Wait()
	halt := sync.OnceFunc(func() { close(stop) })
	defer halt()
	for replica, m := range places {
		asking.Go(func() {
			n := 0
			for {
				select {
				case <-stop:
					t.Logf("%s answered %d times", m.Name, n)
					return
				case <-time.After(100 * time.Millisecond):
				}
				if err := ask(c, m, replica); err != nil {
					t.Errorf("replica %d on %s: %v", replica, m.Name, err)
					return
				}
				n++
			}
		})
	}

	f := &factory{orders: make(chan order)}
	node, err := nodefile.Read(filepath.Join(c.Controller.Etc(), "node.json"))
	must(t, err)
	options := operation.Options{
		Node: node, StateDir: filepath.Join(t.TempDir(), "service"), Swarm: c.Controller.Engine(), View: c.Service().Cluster,
		Renewer: func(operation.Kind, int) (operation.Renewer, error) { return f, nil },
		Limits:  operation.Limits{Look: 200 * time.Millisecond, Steady: 2 * time.Second, Boot: patience, Health: patience},
	}
	begin := func() (*operation.Service, func()) {
		s, err := operation.New(options)
		must(t, err)
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = s.Run(ctx)
		}()
		return s, func() {
			cancel()
			<-ended
		}
	}
	s, end := begin()
	began := time.Now()
	op, err := s.Start(t.Context(), operation.Request{Kind: operation.Rebuild, Slots: []int{2}, By: "sam"})
	must(t, err)
	if _, err := s.Start(t.Context(), operation.Request{Kind: operation.Rebuild, All: true, By: "daniel"}); !errors.Is(err, operation.ErrBusy) || !strings.Contains(err.Error(), "by sam") {
		t.Errorf("the second operator is told %v", err)
	}
	var o order
	select {
	case o = <-f.orders:
	case <-time.After(patience):
		t.Fatalf("it does not get so far: %+v", s.View(2))
	}
	if tasks := web(t, c); slices.ContainsFunc([]int{1, 2, 3}, func(n int) bool { return tasks[n].NodeID == before["p2"] }) {
		t.Errorf("p2 has tasks when its card is written: %+v", tasks)
	}
	p2 := c.Slot(2)
	c.PowerOff(p2)
	c.Reflash(p2)
	close(o.done)
	until(t, "the node to be waited for", func() bool { return s.View(2).Step == operation.StepBoot })
	// The service ends, and the node comes up meanwhile.
	end()
	c.PowerOn(p2)
	s, end = begin()
	defer end()
	until(t, "the end", func() bool {
		select {
		case <-f.orders:
			t.Error("p2 is written once more")
		default:
		}
		op, _ = s.Get(op.ID)
		return op.Over()
	})
	t.Logf("rebuilt in %v", time.Since(began).Round(100*time.Millisecond))
	if op.State != operation.Done {
		t.Fatalf("it is %s: %s %+v", op.State, op.Error, op.Slots)
	}
	// Nothing is waited for from here on: that was the operation's.
	after := ids(c.Stands(c.Settled(more)))
	if after["p2"] == before["p2"] || after["p1"] != before["p1"] || after["p3"] != before["p3"] {
		t.Errorf("the nodes are %v, they were %v", after, before)
	}
	has := web(t, c)
	for replica := range places {
		if has[replica].ID != had[replica].ID {
			t.Errorf("replica %d is task %s, it was %s", replica, has[replica].ID, had[replica].ID)
		}
	}
	if len(has) != 3 {
		t.Errorf("the replicas are %+v", has)
	}
	halt()
	asking.Wait()
}
