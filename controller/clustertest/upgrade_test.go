//go:build linux

package clustertest_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hatchery/controller/clustertest"
	"hatchery/controller/operation"
	"hatchery/internal/atomicfile"
	"hatchery/internal/enginetest"
	"hatchery/internal/nodefile"
	wire "hatchery/internal/reimage"
)

// webName is the image of the service. Its registry refuses at once, on every node: an
// engine that has not got the image yet does not wait for one.
const webName = "127.0.0.1:1/web:1"

// running is everything that runs on machines, by the kernel's word: agents, engines,
// containers and their processes. What was started again differs.
func running(t *testing.T, c *clustertest.Cluster, machines ...*enginetest.Machine) string {
	t.Helper()
	var all []string
	for _, m := range machines {
		engine := processes(t, "dockerd", "cmdline", m.EngineHost())
		out, err := m.Docker(t.Context(), "ps", "--no-trunc", "--quiet")
		must(t, err)
		var inside []string
		for _, id := range strings.Fields(out) {
			out, err := m.Docker(t.Context(), "inspect", "--format", "{{.State.StartedAt}} {{.RestartCount}}", id)
			must(t, err)
			inside = append(inside, fmt.Sprintf("%.12s %s %s", id, strings.TrimSpace(out), processes(t, "web", "cgroup", id)))
		}
		slices.Sort(inside)
		all = append(all, fmt.Sprintf("%s: agent %d, engine %s: %s", m.Name, c.AgentPid(m), engine, strings.Join(inside, ", ")))
	}
	return strings.Join(all, "\n")
}

// processes are those of a name that have some words in a file of /proc, each with when
// it began: an engine has process ids of its own.
func processes(t *testing.T, name, file, words string) string {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	must(t, err)
	var found []string
	for _, dir := range dirs {
		comm, err := os.ReadFile(filepath.Join(dir, "comm"))
		if err != nil || string(comm) != name+"\n" {
			continue
		}
		content, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil || !strings.Contains(string(content), words) {
			continue
		}
		stat, err := os.ReadFile(filepath.Join(dir, "stat"))
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(stat), ") ")
		found = append(found, fmt.Sprintf("process %s since %s", filepath.Base(dir), strings.Fields(rest)[19]))
	}
	if len(found) == 0 {
		t.Errorf("no process %s has %q in its %s", name, words, file)
	}
	return strings.Join(found, " ")
}

// carded is a cluster of three slots, p2's with a card that a build has made, under a
// service with a replica on each. Its node has another label than cluster.yaml says.
func carded(t *testing.T, o clustertest.Options) (c *clustertest.Cluster, first *clustertest.Image, web []byte) {
	t.Helper()
	o.Slots, o.Intervals, o.Founding, o.Keep = []int{1, 2, 3}, quick, alone, []string{nodefile.KeepVolumes}
	o.Labels = map[int]map[string]string{2: {"disk": "ssd"}}
	c = clustertest.New(t, o)
	web = webImage(t, webName)
	first = c.Build(c.Slot(2), clustertest.Release{Name: "first", Preload: web})
	c.Insert(c.Slot(2), first)
	for _, m := range c.Machines() {
		c.PowerOn(m)
	}
	c.WaitSettled()
	for _, m := range c.Slots() {
		must(t, m.Engine().LoadImages(t.Context(), bytes.NewReader(web)))
	}
	docker(t, c, "node", "update", "--label-add", "rack=top", "p2")
	docker(t, c, "service", "create", "--detach", "--no-resolve-image", "--replicas", "3", "--replicas-max-per-node", "1", "--name", "web",
		"--network", "host", "--constraint", "node.role==worker", "--env", "PORT=800{{.Task.Slot}}", "--stop-grace-period", "2s",
		"--restart-delay", "1s", webName)
	whole(t, c)
	return c, first, web
}

// whole waits for three replicas on three nodes, and gives their tasks by the nodes.
func whole(t *testing.T, c *clustertest.Cluster) map[string]string {
	t.Helper()
	var tasks map[string]string
	until(t, "three replicas on three nodes", func() bool {
		tasks = map[string]string{}
		for _, task := range web(t, c) {
			tasks[task.NodeID] = task.ID
		}
		return len(tasks) == 3
	})
	return tasks
}

// furnished has p2 have something that outlives its root, if that is kept, and
// something that does not.
func furnished(t *testing.T, c *clustertest.Cluster) {
	t.Helper()
	m := c.Slot(2)
	_, err := m.Docker(t.Context(), "volume", "create", "data")
	must(t, err)
	must(t, os.WriteFile(filepath.Join(volume(m), "precious"), []byte("what a service wrote"), 0o640))
	must(t, os.Chown(filepath.Join(volume(m), "precious"), 1000, 100))
	must(t, os.WriteFile(scratch(m), []byte("what somebody left"), 0o600))
	_, err = m.Docker(t.Context(), "tag", webName, "127.0.0.1:1/pulled:by-hand")
	must(t, err)
}

func volume(m *enginetest.Machine) string {
	return filepath.Join(m.DockerRoot(), "volumes", "data", "_data")
}

func scratch(m *enginetest.Machine) string { return filepath.Join(m.State(), "scratch") }

// discarded sees that p2 has nothing any more that its root alone had.
func discarded(t *testing.T, c *clustertest.Cluster) {
	t.Helper()
	m := c.Slot(2)
	if _, err := os.Stat(scratch(m)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file of the former root is there: %v", err)
	}
	if out, err := m.Docker(t.Context(), "images", "--quiet", "127.0.0.1:1/pulled:by-hand"); err != nil || strings.TrimSpace(out) != "" {
		t.Errorf("an image of the former root is there: %q %v", out, err)
	}
}

// kept sees that the volume is there with what it had.
func kept(t *testing.T, c *clustertest.Cluster) {
	t.Helper()
	m := c.Slot(2)
	content, err := os.ReadFile(filepath.Join(volume(m), "precious"))
	if err != nil || string(content) != "what a service wrote" {
		t.Errorf("the volume has %q %v", content, err)
	}
	var owner string
	if info, err := os.Stat(filepath.Join(volume(m), "precious")); err == nil {
		owner = fmt.Sprintf("%v %s", info.Mode(), ownerOf(info))
	}
	if owner != "-rw-r----- 1000:100" {
		t.Errorf("what is in the volume is %s", owner)
	}
	if out, err := m.Docker(t.Context(), "volume", "ls", "--quiet"); err != nil || strings.TrimSpace(out) != "data" {
		t.Errorf("the engine has the volumes %q %v", out, err)
	}
}

// clean sees that nothing is left of a card that was written: no order, with its key, no
// record, nothing of an operation.
func clean(t *testing.T, c *clustertest.Cluster, slot int, release string) {
	t.Helper()
	if _, err := wire.ReadOrder(c.Card(c.Slot(slot))); !errors.Is(err, wire.ErrNoOrder) {
		t.Errorf("the card has an order: %v", err)
	}
	if root, boot := c.Release(c.Slot(slot)); root != release || boot != release {
		t.Errorf("the card has the root of %q and the boot partition of %q, want %q", root, boot, release)
	}
	if v := viewOf(t, c, slot); v.Operation != nil {
		t.Errorf("p%d is at work: %+v", slot, v.Operation)
	}
	records, err := os.ReadFile(filepath.Join(c.Controller.State(), "cards", "reimage.json"))
	if err != nil || !bytes.Contains(bytes.ReplaceAll(records, []byte(" "), nil), []byte(`"slots":{}`)) {
		t.Errorf("a card's record is left: %s %v", records, err)
	}
	for _, op := range operations(t, c) {
		if !op.Over() {
			t.Errorf("%s is not over", op.ID)
		}
	}
	// The service writes its own state down all the time; nothing stays half written.
	until(t, "no file to be half written", func() bool {
		left := 0
		must(t, filepath.WalkDir(c.Controller.State(), func(_ string, d fs.DirEntry, err error) error {
			if err == nil && strings.HasSuffix(d.Name(), atomicfile.Suffix) {
				left++
			}
			return nil // also of what was there a moment ago
		}))
		return left == 0
	})
}

// asBefore sees that p2 is what it was, as another node; the others are the nodes, the
// engines, the containers and the processes that they were.
func asBefore(t *testing.T, c *clustertest.Cluster, before, tasks map[string]string, ran string) {
	t.Helper()
	more := map[int]string{2: "rack=top"}
	// Nothing is waited for: that was the operation's.
	after := ids(c.Stands(c.Settled(more)))
	if after["p2"] == before["p2"] || after["p1"] != before["p1"] || after["p3"] != before["p3"] || after["controller"] != before["controller"] {
		t.Errorf("the nodes are %v, they were %v", after, before)
	}
	now := whole(t, c)
	for _, name := range []string{"p1", "p3"} {
		if now[before[name]] != tasks[before[name]] {
			t.Errorf("%s has the task %s, it had %s", name, now[before[name]], tasks[before[name]])
		}
	}
	if now := running(t, c, c.Controller, c.Slot(1), c.Slot(3)); now != ran {
		t.Errorf("others were touched:\n%s\nthey were\n%s", now, ran)
	}
}

// TestRebuildUpgradeAndBack has the command line rebuild p2, upgrade it to the next build,
// and upgrade it to one that fails its health gate, under a service with a replica on
// each of three nodes: agents, engines, service, the push, what is kept, arming, and what
// writes the card are the real ones.
func TestRebuildUpgradeAndBack(t *testing.T) {
	t.Parallel()
	limits := operation.Limits{Look: 200 * time.Millisecond, Steady: 2 * time.Second, Boot: patience, Health: time.Minute, Settle: 30 * time.Second}
	c, first, image := carded(t, clustertest.Options{Operations: limits})
	h := commandLine(t, c)
	p2, others := c.Slot(2), []*enginetest.Machine{c.Controller, c.Slot(1), c.Slot(3)}
	now := func() map[string]string {
		nodes, err := c.Controller.Engine().Nodes(t.Context())
		must(t, err)
		return ids(nodes)
	}

	// Without a push nobody knows what the card is to hold.
	if got := h.run("sam", "rebuild", "p2"); got.code != 1 || !has(got.stderr, "hatchery push") {
		t.Errorf("before the push: %+v", got)
	}

	if pushed := c.Push(first); len(pushed.Stored) != 2 {
		t.Errorf("the first push: %+v", pushed)
	}
	furnished(t, c)
	before, tasks, ran := now(), whole(t, c), running(t, c, others...)
	start := time.Now()
	rebuilt := h.begin("sam", "rebuild", "p2")
	until(t, "the rebuild to be at work", func() bool { return viewOf(t, c, 2).Operation != nil })
	// A second operator is told who is at work, and nothing is begun twice.
	for _, words := range [][]string{{"rebuild", "p2"}, {"rebuild", "p2", "--keep", "--now"}, {"upgrade", "p2", "--yes"}} {
		if got := h.run("daniel", words...); got.code != 1 || !has(got.stderr, "p2 is busy", "rebuild-1", "by sam@", "--follow rebuild-1") {
			t.Errorf("the second operator's %v: %+v", words, got)
		}
	}
	if got := <-rebuilt; got.code != 0 || !has(got.stderr, "lost: everything on its card") || !has(got.stdout, "p2 is Ready") {
		t.Fatalf("the rebuild: %+v", got)
	}
	took := time.Since(start)
	t.Logf("rebuilt in %v", took.Round(100*time.Millisecond))
	if list := operations(t, c); len(list) != 1 {
		t.Errorf("%d operations were begun", len(list))
	}
	asBefore(t, c, before, tasks, ran)
	discarded(t, c)
	if _, err := os.Stat(volume(p2)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a rebuild keeps the volume: %v", err)
	}
	clean(t, c, 2, "first")

	// The next build.
	second := c.Build(p2, clustertest.Release{Name: "second", Preload: image})
	if pushed := c.Push(second); len(pushed.Stored) != 1 {
		t.Errorf("the base was sent again: %+v", pushed)
	}
	furnished(t, c)
	before, tasks, ran = now(), whole(t, c), running(t, c, others...)
	// Nobody is there to be asked, so that nothing is done; what would be lost is told.
	told := []string{"p2 (card): from " + short(first) + " to " + short(second), "lost: everything on its card", "kept: volume data"}
	if got := h.run("sam", "upgrade", "p2"); got.code != 2 || !has(got.stderr, told...) {
		t.Errorf("unasked: %+v", got)
	}
	if got := h.run("sam", "upgrade", "--plan"); got.code != 0 || !has(got.stdout, told...) {
		t.Errorf("the plan: %+v", got)
	}
	if now := running(t, c, c.Machines()...); !strings.HasPrefix(now, strings.SplitN(ran, "\n", 2)[0]) || len(operations(t, c)) != 1 {
		t.Errorf("a plan has begun something: %s", now)
	}
	start = time.Now()
	got := h.run("sam", "upgrade", "p2", "--yes")
	if got.code != 0 || !has(got.stderr, told...) || !has(got.stdout, "p2 is Ready") {
		t.Fatalf("the upgrade: %+v", got)
	}
	t.Logf("upgraded in %v", time.Since(start).Round(100*time.Millisecond))
	asBefore(t, c, before, tasks, ran)
	discarded(t, c)
	kept(t, c)
	clean(t, c, 2, "second")
	if got := h.run("sam", "upgrade"); got.code != 0 || !has(strings.ToLower(got.stdout), "every slot has what was pushed for it") {
		t.Errorf("the same once more: %+v", got)
	}

	// One that forgot the service's image: its node is Ready, the service is not whole.
	third := c.Build(p2, clustertest.Release{Name: "third"})
	c.Push(third)
	furnished(t, c)
	before, tasks, ran = now(), whole(t, c), running(t, c, others...)
	start = time.Now()
	got = h.run("sam", "upgrade", "p2", "--yes")
	if got.code != 1 || !has(got.stdout, "p2: failed, and went back", "web has 2 of 3") {
		t.Fatalf("the upgrade that fails: %+v", got)
	}
	t.Logf("upgraded in vain, and back, in %v, of which %v are the limit of the health gate", time.Since(start).Round(100*time.Millisecond), limits.Health)
	asBefore(t, c, before, tasks, ran)
	discarded(t, c)
	kept(t, c)
	clean(t, c, 2, "second")
}

// short is an image's name as people see it.
func short(i *clustertest.Image) string {
	_, name, _ := strings.Cut(i.Digest(), ":")
	return name[:12]
}
