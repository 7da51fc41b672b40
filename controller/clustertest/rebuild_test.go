//go:build linux

package clustertest_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hatchery/controller"
	"hatchery/controller/backup"
	"hatchery/controller/clustertest"
	"hatchery/firstboot"
	"hatchery/firstboot/founding"
	"hatchery/internal/enginetest"
	"hatchery/internal/enrol"
	"hatchery/internal/swarm"
)

// quick are agents that look and report more often than a cluster's, so that
// what they find out by themselves takes seconds.
var quick = firstboot.Intervals{Most: 5 * time.Second, Check: 5 * time.Second, Heartbeat: 2 * time.Second}

// never takes no backups by itself.
var never = backup.Times{Quiet: time.Hour, Most: time.Hour, Soon: time.Hour, Retry: time.Second, Survey: time.Hour}

// homestead is a cluster with quick agents, up and in place but for the slots
// that are off.
func homestead(t *testing.T, o clustertest.Options, off ...int) *clustertest.Cluster {
	t.Helper()
	o.Intervals = quick
	o.Founding = founding.Waits{Settle: 3 * time.Second}
	c := clustertest.New(t, o)
	for _, m := range c.Machines() {
		if slices.Contains(off, m.Slot) {
			must(t, m.Unplug())
			continue
		}
		c.PowerOn(m)
	}
	c.WaitTable(table(c, nil, off...))
	return c
}

// table is Settled without some slots.
func table(c *clustertest.Cluster, more map[int]string, without ...int) string {
	lines := strings.Split(c.Settled(more), "\n")
	for _, slot := range without {
		prefix := c.Slot(slot).Name + " "
		lines = slices.DeleteFunc(lines, func(line string) bool { return strings.HasPrefix(line, prefix) })
	}
	return strings.Join(lines, "\n")
}

// docker runs the docker command line on the controller. It reads what it changes, and
// is refused where somebody has changed that in between, as the service and the swarm
// itself may: then nothing was done, and it is done again.
func docker(t *testing.T, c *clustertest.Cluster, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		out, err := c.Controller.Docker(ctx, args...)
		if err != nil && ctx.Err() == nil && strings.Contains(err.Error(), "update out of sequence") {
			continue
		}
		must(t, err)
		return out
	}
}

// ids are the node IDs of the list, by the slots' names.
func ids(nodes []swarm.Node) map[string]string {
	all := make(map[string]string)
	for _, n := range nodes {
		all[n.Labels["hatchery.slot"]] = n.ID
	}
	return all
}

// another waits until a slot has another node than it had, and the list looks
// as wanted: until the swarm misses the former one, that looks well.
func another(t *testing.T, c *clustertest.Cluster, slot int, former, want string) string {
	t.Helper()
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		if now := clustertest.NodeOf(t, c.WaitTable(want), slot).ID; now != former {
			return now
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("slot %d is node %s still", slot, former)
	return ""
}

// furnish gives the swarm what its users would, and gives what there is then.
func furnish(t *testing.T, c *clustertest.Cluster) string {
	t.Helper()
	secret := filepath.Join(t.TempDir(), "secret")
	must(t, os.WriteFile(secret, []byte("a secret of the user's"), 0o600))
	docker(t, c, "secret", "create", "password", secret)
	docker(t, c, "config", "create", "settings", secret)
	docker(t, c, "network", "create", "--driver", "overlay", "--attachable", "inner")
	docker(t, c, "service", "create", "--detach", "--no-resolve-image", "--replicas", "0", "--name", "web",
		"--network", "inner", "--secret", "password", "--constraint", "node.labels.hatchery.slot==p1", "nothing:1")
	docker(t, c, "node", "update", "--label-add", "rack=top", "p1")
	return furniture(t, c)
}

// furniture is what a swarm has beside its nodes.
func furniture(t *testing.T, c *clustertest.Cluster) string {
	t.Helper()
	var all []string
	for _, list := range [][]string{
		{"secret", "ls", "--format", "{{.ID}} {{.Name}}"}, {"config", "ls", "--format", "{{.ID}} {{.Name}}"},
		{"service", "ls", "--format", "{{.ID}} {{.Name}} {{.Image}}"},
		{"network", "ls", "--filter", "driver=overlay", "--no-trunc", "--format", "{{.ID}} {{.Name}}"},
	} {
		for line := range strings.Lines(docker(t, c, list...)) {
			all = append(all, list[0]+" "+strings.TrimSpace(line))
		}
	}
	slices.Sort(all)
	return strings.Join(all, "\n")
}

// view is what `hatchery status` shows.
func view(t *testing.T, c *clustertest.Cluster) *enrol.ClusterView {
	t.Helper()
	var v *enrol.ClusterView
	until(t, "the service to answer", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		var err error
		v, err = c.Service().Cluster(ctx)
		return err == nil
	})
	return v
}

func viewOf(t *testing.T, c *clustertest.Cluster, slot int) enrol.SlotView {
	t.Helper()
	v := view(t, c)
	at := slices.IndexFunc(v.Slots, func(s enrol.SlotView) bool { return s.Slot == slot })
	if at < 0 {
		t.Fatalf("slot %d is not shown", slot)
	}
	return v.Slots[at]
}

// backedUp waits until nodes have a backup of everything that was done so far,
// and gives its size.
func backedUp(t *testing.T, c *clustertest.Cluster, nodes ...string) int64 {
	t.Helper()
	moment := time.Now()
	// A change that is later than the moment: what it leads to is a backup of
	// all that was before.
	docker(t, c, "node", "update", "--label-add", "tick=tock", "p1")
	docker(t, c, "node", "update", "--label-rm", "tick", "p1")
	var b *enrol.BackupView
	until(t, fmt.Sprintf("a backup on %v", nodes), func() bool {
		b = view(t, c).Backup
		return b != nil && b.Error == "" && b.Taken.After(moment) && slices.Equal(b.Nodes, nodes)
	})
	return b.Bytes
}

// flashAnew makes the controller a freshly flashed one, which is off.
func flashAnew(t *testing.T, c *clustertest.Cluster) {
	t.Helper()
	m := c.Controller
	c.PowerOff(m)
	c.Reflash(m)
	for _, command := range [][]string{{"ip", "link", "delete", m.Link()}, {"nft", "flush", "ruleset"}} {
		if out, err := m.Command(t.Context(), command[0], command[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", command, err, out)
		}
	}
}

// swarmID is the swarm's.
func swarmID(t *testing.T, c *clustertest.Cluster) string {
	t.Helper()
	cluster, err := c.Controller.Engine().Cluster(t.Context())
	must(t, err)
	return cluster.ID
}

// told gives what the service that runs now told slots to do.
func told(t *testing.T, c *clustertest.Cluster) (all []string) {
	t.Helper()
	must(t, c.Service().Events(t.Context(), false, func(e controller.Event) error {
		if e.Kind == controller.EventJoin && strings.Contains(e.Detail, "told to") && !strings.Contains(e.Detail, "told to wait") {
			all = append(all, e.Detail)
		}
		return nil
	}))
	return all
}

// heardOf waits until slots have said since a moment that all is well with
// them.
func heardOf(t *testing.T, c *clustertest.Cluster, moment time.Time, slots ...int) {
	t.Helper()
	for _, slot := range slots {
		until(t, fmt.Sprintf("slot %d to be heard of", slot), func() bool {
			v := viewOf(t, c, slot)
			return v.LastSeen != nil && v.LastSeen.After(moment) && v.Step == firstboot.Steady
		})
	}
}

// TestWorkerRebuilt writes a worker's card again and again. It keeps what
// cluster.yaml and an operator gave it, and has one entry.
func TestWorkerRebuilt(t *testing.T) {
	t.Parallel()
	c := homestead(t, clustertest.Options{Labels: map[int]map[string]string{1: {"disk": "ssd"}}})
	p1 := c.Slot(1)
	set := func(args ...string) { docker(t, c, append(append([]string{"node", "update"}, args...), "p1")...) }
	former := clustertest.NodeOf(t, c.WaitSettled(), 1).ID
	seen := map[string]bool{former: true}
	for round, now := range []struct {
		set          []string // by an operator, before
		labels       string
		availability string
	}{
		{[]string{"--label-add", "rack=top", "--label-add", "floor=2"}, "floor=2 rack=top", "active"},
		{[]string{"--availability", "drain"}, "floor=2 rack=top", "drain"},
		// One that cluster.yaml sets is set again, whatever an operator made of it.
		{[]string{"--label-rm", "rack", "--label-add", "floor=3", "--label-add", "disk=hdd"}, "floor=3", "drain"},
		{[]string{"--availability", "pause"}, "floor=3", "pause"},
		{[]string{"--availability", "active", "--label-rm", "floor"}, "", "active"},
	} {
		set(now.set...)
		began := time.Now()
		c.PowerOff(p1)
		c.Reflash(p1)
		c.PowerOn(p1)
		lines := strings.Split(c.Settled(nil), "\n")
		for i, line := range lines {
			if strings.HasPrefix(line, "p1 ") {
				lines[i] = fmt.Sprintf("p1 p1 %s ready %s disk=ssd", p1.Addr, now.availability)
				if strings.HasPrefix(now.labels, "floor") {
					floor, rest, _ := strings.Cut(now.labels, " ")
					lines[i] += " " + floor + " hatchery.arch=armv6 hatchery.model=zero " + rest
				} else {
					lines[i] += " hatchery.arch=armv6 hatchery.model=zero"
				}
				lines[i] = strings.TrimSpace(lines[i])
			}
		}
		former = another(t, c, 1, former, strings.Join(lines, "\n"))
		if seen[former] {
			t.Errorf("round %d: node %s was there before", round, former)
		}
		seen[former] = true
		t.Logf("round %d: in place %v after it was off", round, time.Since(began).Round(100*time.Millisecond))
	}
	inOrder(t, c)
}

// TestControllerRebuilt flashes the controller anew while one worker is on,
// one is off and one was never there. It gets back all that nodes keep of it,
// and nobody joins again.
func TestControllerRebuilt(t *testing.T) {
	t.Parallel()
	c := homestead(t, clustertest.Options{Slots: []int{1, 2, 3}, Labels: map[int]map[string]string{2: {"disk": "ssd"}}}, 3)
	p2 := c.Slot(2)
	had := furnish(t, c)
	_, err := c.Service().Revoke(t.Context(), 3)
	must(t, err)
	top := map[int]string{1: "rack=top"}
	before := ids(c.WaitTable(table(c, top, 3)))
	id := swarmID(t, c)
	t.Logf("the backup has %d KiB", (backedUp(t, c, "p1", "p2")+1023)>>10)

	c.PowerOff(p2)
	must(t, p2.Unplug())
	flashAnew(t, c)
	began := time.Now()
	c.PowerOn(c.Controller)
	until(t, "the swarm to be back", func() bool {
		cluster, err := c.Controller.Engine().Cluster(t.Context())
		return err == nil && cluster.ID == id
	})
	t.Logf("the swarm is back %v after power-on", time.Since(began).Round(100*time.Millisecond))
	must(t, p2.Plug())
	c.PowerOn(p2)
	heardOf(t, c, began, 1, 2)
	nodes := c.WaitTable(table(c, top, 3))

	if after := ids(nodes); !maps.Equal(after, before) {
		t.Errorf("the nodes are %v, they were %v", after, before)
	}
	if now := swarmID(t, c); now != id {
		t.Errorf("the swarm is %s, it was %s", now, id)
	}
	if has := furniture(t, c); has != had {
		t.Errorf("the swarm has\n%s\nand it had\n%s", has, had)
	}
	if all := told(t, c); len(all) > 0 {
		t.Errorf("nodes had to join again: %q", all)
	}
	if v := viewOf(t, c, 3); v.MinGeneration < 2 {
		t.Errorf("that p3 was revoked is forgotten: %+v", v)
	}
	if !strings.Contains(logOf(t, c.Controller, "agent"), "how=recovered") {
		t.Error("the agent does not say that it has recovered the swarm")
	}
	// What is kept goes on from there.
	backedUp(t, c, "p1", "p2")
}

// TestControllerRebuiltWithoutBackup: nobody keeps anything, and the workers,
// of which one is off meanwhile, are all in the new swarm by themselves.
func TestControllerRebuiltWithoutBackup(t *testing.T) {
	t.Parallel()
	c := homestead(t, clustertest.Options{Slots: []int{1, 2}, Labels: map[int]map[string]string{1: {"disk": "ssd"}}, Backups: never})
	p2 := c.Slot(2)
	before := ids(c.WaitSettled())
	id := swarmID(t, c)
	c.PowerOff(p2)
	must(t, p2.Unplug())
	flashAnew(t, c)
	began := time.Now()
	c.PowerOn(c.Controller)
	c.WaitTable(table(c, nil, 2))
	t.Logf("the worker is in the new swarm %v after the controller's power-on", time.Since(began).Round(100*time.Millisecond))
	must(t, p2.Plug())
	c.PowerOn(p2)
	inOrder(t, c)
	after := ids(c.WaitSettled())
	for name, node := range after {
		if before[name] == node {
			t.Errorf("%s is node %s still", name, node)
		}
	}
	if now := swarmID(t, c); now == id {
		t.Errorf("the swarm is %s still", now)
	}
}

// TestRestoredByHand restores a backup that was fetched by hand, as
// docs/first-boot.md says it.
func TestRestoredByHand(t *testing.T) {
	t.Parallel()
	c := homestead(t, clustertest.Options{Backups: never})
	had := furnish(t, c)
	top := map[int]string{1: "rack=top"}
	before := ids(c.WaitTable(c.Settled(top)))
	drawer := filepath.Join(t.TempDir(), "swarm.backup")
	f, err := os.OpenFile(drawer, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	must(t, err)
	must(t, c.Service().Backup(t.Context(), f))
	must(t, f.Close())

	flashAnew(t, c)
	place := filepath.Join(c.Controller.State(), "backups", "restore")
	must(t, os.MkdirAll(filepath.Dir(place), 0o700))
	content, err := os.ReadFile(drawer)
	must(t, err)
	must(t, os.WriteFile(place, content, 0o600))
	began := time.Now()
	c.PowerOn(c.Controller)
	heardOf(t, c, began, 1)
	if after := ids(c.WaitTable(c.Settled(top))); !maps.Equal(after, before) {
		t.Errorf("the nodes are %v, they were %v", after, before)
	}
	if has := furniture(t, c); has != had {
		t.Errorf("the swarm has\n%s\nand it had\n%s", has, had)
	}
	if all := told(t, c); len(all) > 0 {
		t.Errorf("nodes had to join again: %q", all)
	}
	inPlace, err := filepath.Glob(place + "*")
	if err != nil || !slices.Equal(inPlace, []string{place + founding.Used}) {
		t.Errorf("%v, %v lie there, want the backup set aside as used", inPlace, err)
	}
}

// TestHeals breaks what a cluster stands on, one after the other.
func TestHeals(t *testing.T) {
	t.Parallel()
	c := homestead(t, clustertest.Options{Slots: []int{1, 2}, Labels: map[int]map[string]string{1: {"disk": "ssd"}}})
	ca := ownAuthority(t, c)
	docker(t, c, "node", "update", "--label-add", "rack=top", "p1")
	top := map[int]string{1: "rack=top"}
	same := func(t *testing.T, before map[string]string, moment time.Time) {
		t.Helper()
		heardOf(t, c, moment, 1, 2)
		if after := ids(c.WaitTable(c.Settled(top))); !maps.Equal(after, before) {
			t.Errorf("the nodes are %v, they were %v", after, before)
		}
	}
	run := func(name string, test func(t *testing.T, before map[string]string)) {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			test(t, ids(c.WaitTable(c.Settled(top))))
			t.Logf("healed after %v", time.Since(began).Round(100*time.Millisecond))
		})
	}
	run("the controller's engine restarted", func(t *testing.T, before map[string]string) {
		must(t, c.Controller.RestartEngine(t.Context()))
		same(t, before, time.Now())
	})
	run("the controller's engine killed", func(t *testing.T, before map[string]string) {
		c.Controller.KillEngine()
		same(t, before, time.Now())
	})
	run("the controller rebooted", func(t *testing.T, before map[string]string) {
		c.PowerOff(c.Controller)
		began := time.Now()
		c.PowerOn(c.Controller)
		same(t, before, began)
	})
	run("the bridge removed", func(t *testing.T, before map[string]string) {
		out, err := c.Controller.Command(t.Context(), "ip", "link", "delete", c.Controller.Link()).CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		same(t, before, time.Now())
	})
	run("a worker rebooted", func(t *testing.T, before map[string]string) {
		c.PowerOff(c.Slot(1))
		began := time.Now()
		c.PowerOn(c.Slot(1))
		same(t, before, began)
	})
	run("a worker removed from the list", func(t *testing.T, before map[string]string) {
		docker(t, c, "node", "rm", "--force", "p1")
		another(t, c, 1, before["p1"], c.Settled(top))
	})
	run("a worker's certificate expired", func(t *testing.T, before map[string]string) {
		p1 := c.Slot(1)
		c.PowerOff(p1)
		ca.expire(t, p1)
		c.PowerOn(p1)
		another(t, c, 1, before["p1"], c.Settled(top))
		if !strings.Contains(logOf(t, p1, "dockerd"), "not valid after") {
			t.Error("the engine did not mind its certificate")
		}
	})
	inPlace := c.WaitTable(c.Settled(top))
	if len(inPlace) != 3 {
		t.Errorf("%d nodes", len(inPlace))
	}
	if alarms := view(t, c).Alarms; len(alarms) > 0 {
		t.Errorf("the alarms are %+v", alarms)
	}
}

// An authority is the swarm's own CA, of which the test has the key.
type authority struct {
	root *x509.Certificate
	key  *ecdsa.PrivateKey
}

// ownAuthority gives the swarm a CA of the test's own.
func ownAuthority(t *testing.T, c *clustertest.Cluster) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	now := time.Now()
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "swarm-ca"}, NotBefore: now.AddDate(-2, 0, 0), NotAfter: now.AddDate(10, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, root, root, key.Public(), key)
	must(t, err)
	root, err = x509.ParseCertificate(der)
	must(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	dir := t.TempDir()
	for name, block := range map[string]*pem.Block{"ca.pem": {Type: "CERTIFICATE", Bytes: der}, "ca.key": {Type: "PRIVATE KEY", Bytes: private}} {
		must(t, os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600))
	}
	// It is through with that when every node has a certificate of the new one.
	docker(t, c, "swarm", "ca", "--rotate", "--quiet", "--ca-cert", filepath.Join(dir, "ca.pem"), "--ca-key", filepath.Join(dir, "ca.key"))
	return &authority{root, key}
}

// expire has the swarm certificate of a worker, whose engine does not run, be
// out of date for a month.
func (a *authority) expire(t *testing.T, m *enginetest.Machine) {
	t.Helper()
	path := filepath.Join(m.DockerRoot(), "swarm/certificates/swarm-node.crt")
	data, err := os.ReadFile(path)
	must(t, err)
	block, _ := pem.Decode(data)
	cert, err := x509.ParseCertificate(block.Bytes)
	must(t, err)
	must(t, cert.CheckSignatureFrom(a.root))
	cert.NotBefore, cert.NotAfter = time.Now().AddDate(0, -4, 0), time.Now().AddDate(0, -1, 0)
	forged, err := x509.CreateCertificate(rand.Reader, cert, a.root, cert.PublicKey, a.key)
	must(t, err)
	must(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: forged}), 0o600))
}
