//go:build linux

package swarm_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hatchery/internal/enginetest"
	"hatchery/internal/swarm"
)

// eventually waits till a state is reached.
func eventually(t *testing.T, what string, reached func() bool) {
	t.Helper()
	for start := time.Now(); !reached(); time.Sleep(50 * time.Millisecond) {
		if time.Since(start) > 90*time.Second {
			t.Fatalf("never: %s", what)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// lab makes a lab whose engines run, and whose controller has a swarm.
func lab(t *testing.T, slots ...int) *enginetest.Lab {
	t.Helper()
	l := enginetest.New(t, enginetest.Options{Slots: slots})
	for _, m := range l.Machines() {
		must(t, m.StartEngine(t.Context()))
	}
	_, err := l.Controller.Engine().Init(t.Context(), swarm.InitOptions{Addr: l.Controller.Addr})
	must(t, err)
	return l
}

// invitation is what a slot joins with.
func invitation(t *testing.T, l *enginetest.Lab, m *enginetest.Machine) swarm.JoinOptions {
	t.Helper()
	c, err := l.Controller.Engine().Cluster(t.Context())
	must(t, err)
	remote := netip.AddrPortFrom(l.Controller.Addr, swarm.Port).String()
	return swarm.JoinOptions{Remotes: []string{remote}, Token: c.WorkerToken, Addr: m.Addr, Availability: "pause"}
}

func info(t *testing.T, m *enginetest.Machine) swarm.Info {
	t.Helper()
	i, err := m.Engine().Info(t.Context())
	must(t, err)
	return i
}

func TestLife(t *testing.T) {
	t.Parallel() // engines are waited for
	ctx := t.Context()
	l := enginetest.New(t, enginetest.Options{Slots: []int{1}})
	c, p1 := l.Controller, l.Slot(1)
	must(t, c.StartEngine(ctx))
	must(t, p1.StartEngine(ctx))
	if i := info(t, c); i.State != swarm.Inactive || i.Manager || i.Hostname != "controller" || i.Root != c.DockerRoot() || i.Engine == "" {
		t.Errorf("before all: %+v", i)
	}

	pool := netip.MustParsePrefix("10.181.0.0/16")
	id, err := c.Engine().Init(ctx, swarm.InitOptions{Addr: c.Addr, Settings: swarm.Settings{CertExpiry: 9000 * time.Hour, Heartbeat: 15 * time.Second}, AddressPool: pool})
	must(t, err)
	// What it takes for the life of certificates to count.
	must(t, c.RestartEngine(ctx))
	eventually(t, "the manager is up", func() bool { return info(t, c).State == swarm.Active })
	var cluster swarm.Cluster
	eventually(t, "the swarm is there", func() bool { cluster, err = c.Engine().Cluster(ctx); return err == nil })
	if i := info(t, c); i.State != swarm.Active || !i.Manager || i.NodeID != id || i.NodeAddr != c.Addr || i.ClusterID != cluster.ID || i.Err() != nil {
		t.Errorf("the manager of swarm %s: %+v", cluster.ID, i)
	}
	if cluster.CertExpiry != 9000*time.Hour || cluster.Heartbeat != 15*time.Second || !cmp.Equal(cluster.AddressPool, []netip.Prefix{pool}, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })) ||
		!strings.HasPrefix(cluster.WorkerToken, "SWMTKN-") || cluster.Created.IsZero() {
		t.Errorf("the swarm: %+v", cluster)
	}

	must(t, p1.Engine().Join(ctx, invitation(t, l, p1)))
	i := info(t, p1)
	if i.State != swarm.Active || i.Manager || i.NodeAddr != p1.Addr || !cmp.Equal(i.Remotes, []string{"172.19.181.254:2377"}) {
		t.Errorf("the worker: %+v", i)
	}
	node, clusterID, role, from, to, err := swarm.CertificateOf(p1.DockerRoot())
	must(t, err)
	if node != i.NodeID || clusterID != cluster.ID || role != swarm.RoleWorker {
		t.Errorf("the worker's certificate is of node %s, cluster %s, %s; want %s, %s", node, clusterID, role, i.NodeID, cluster.ID)
	}
	// The hour is swarmkit's backdating.
	if life := to.Sub(from); life != 9001*time.Hour {
		t.Errorf("the worker's certificate lives %s: what Init was told does not count", life)
	}
	if _, _, role, _, _, err := swarm.CertificateOf(c.DockerRoot()); err != nil || role != swarm.RoleManager {
		t.Errorf("the manager's certificate: %s, %v", role, err)
	}

	changed, err := c.Engine().Events(ctx)
	must(t, err)
	eventually(t, "p1 is ready", func() bool {
		n, err := c.Engine().Node(ctx, i.NodeID)
		must(t, err)
		return n.State == "ready"
	})
	n, err := c.Engine().Node(ctx, i.NodeID)
	must(t, err)
	if n.Hostname != "p1" || n.Addr != p1.Addr || n.Manager || n.Availability != "pause" || len(n.Labels) != 0 || n.Engine != i.Engine || n.Architecture == "" {
		t.Errorf("p1's entry: %+v", n)
	}
	drain(changed)
	// The swarm gives a node an address of its own network's meanwhile: another version.
	n, err = c.Engine().Node(ctx, i.NodeID)
	must(t, err)
	spec := swarm.NodeSpec{Labels: map[string]string{"hatchery.slot": "p1"}, Availability: "active"}
	must(t, c.Engine().UpdateNode(ctx, n.ID, n.Version, spec))
	select {
	case <-changed:
	case <-time.After(time.Minute):
		t.Error("a changed node is no event")
	}
	if err := c.Engine().UpdateNode(ctx, n.ID, n.Version, spec); !errors.Is(err, swarm.ErrConflict) {
		t.Errorf("a change of an old version: %v", err)
	}
	if n, err = c.Engine().Node(ctx, n.ID); err != nil || n.Availability != "active" || !cmp.Equal(n.Labels, spec.Labels) {
		t.Errorf("p1's entry, changed: %+v, %v", n, err)
	}

	must(t, c.Engine().Set(ctx, swarm.Settings{CertExpiry: 5000 * time.Hour}))
	must(t, c.Engine().RotateWorkerToken(ctx))
	rotated, err := c.Engine().Cluster(ctx)
	must(t, err)
	if rotated.WorkerToken == cluster.WorkerToken || rotated.CertExpiry != 5000*time.Hour || rotated.Heartbeat != 15*time.Second || rotated.Version <= cluster.Version || rotated.ID != cluster.ID {
		t.Errorf("rotated: %+v, was %+v", rotated, cluster)
	}

	// Recovery: the same swarm, with the engine restarted in between.
	must(t, c.RestartEngine(ctx))
	eventually(t, "the events end with the engine", func() bool {
		select {
		case _, open := <-changed:
			return !open
		default:
			return false
		}
	})
	_, err = c.Engine().Init(ctx, swarm.InitOptions{Addr: c.Addr, ForceNewCluster: true})
	must(t, err)
	if again, err := c.Engine().Cluster(ctx); err != nil || again.ID != cluster.ID || again.WorkerToken != rotated.WorkerToken {
		t.Errorf("recovered: %+v, %v, was %+v", again, err, rotated)
	}

	must(t, p1.Engine().Leave(ctx, true))
	if i := info(t, p1); i.State != swarm.Inactive || i.NodeID != "" {
		t.Errorf("p1 has left: %+v", i)
	}
	if _, _, _, _, _, err := swarm.CertificateOf(p1.DockerRoot()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the certificate of one that has left: %v", err)
	}
	must(t, c.Engine().RemoveNode(ctx, n.ID, true))
	nodes, err := c.Engine().Nodes(ctx)
	must(t, err)
	if len(nodes) != 1 || nodes[0].ID != id || !nodes[0].Manager {
		t.Errorf("all nodes: %+v", nodes)
	}
}

// TestInitAgain: the port of the manager that was stopped for a recovery is
// free a moment later only.
func TestInitAgain(t *testing.T) {
	t.Parallel() // engines are waited for
	ctx := t.Context()
	l := lab(t)
	c := l.Controller
	before, err := c.Engine().Cluster(ctx)
	must(t, err)
	// A second address, whose port the test holds.
	must(t, c.Command(ctx, "ip", "addr", "add", "172.19.181.253/24", "dev", c.Link()).Run())
	var taken net.Listener
	must(t, c.Do(func() (err error) { taken, err = net.Listen("tcp", "172.19.181.253:2377"); return err }))
	defer taken.Close()
	o := swarm.InitOptions{Addr: netip.MustParseAddr("172.19.181.253")}
	o.ForceNewCluster = true
	done := make(chan error)
	go func() {
		_, err := c.Engine().Init(ctx, o)
		done <- err
	}()
	select {
	case err := <-done:
		t.Fatalf("a recovery does not wait for its port: %v", err)
	case <-time.After(2 * time.Second):
	}
	must(t, taken.Close())
	must(t, <-done)
	if i := info(t, c); i.State != swarm.Active || i.ClusterID != before.ID || i.NodeAddr != o.Addr {
		t.Errorf("recovered: %+v, want swarm %s", i, before.ID)
	}
}

// drain takes what has happened already.
func drain(c <-chan struct{}) {
	for {
		select {
		case <-c:
		case <-time.After(500 * time.Millisecond):
			return
		}
	}
}

// TestRefusals provokes what an engine refuses.
func TestRefusals(t *testing.T) {
	t.Parallel() // engines are waited for
	ctx := t.Context()
	l := enginetest.New(t, enginetest.Options{Slots: []int{1, 2, 3, 4}})
	c, p1, p2 := l.Controller, l.Slot(1), l.Slot(2)
	if err := c.Engine().Ping(ctx); !errors.Is(err, swarm.ErrUnreachable) {
		t.Errorf("an engine that does not run: %v", err)
	}
	if _, err := c.Engine().Events(ctx); !errors.Is(err, swarm.ErrUnreachable) {
		t.Errorf("the events of an engine that does not run: %v", err)
	}
	for _, m := range l.Machines() {
		must(t, m.StartEngine(ctx))
	}
	init := func(addr string) func() error {
		return func() error {
			_, err := c.Engine().Init(ctx, swarm.InitOptions{Addr: netip.MustParseAddr(addr)})
			return err
		}
	}
	list := func(m *enginetest.Machine) func() error {
		return func() error { _, err := m.Engine().Nodes(ctx); return err }
	}
	// refused has one step after the other, and what is told of it.
	type step struct {
		summary string
		do      func() error
		is      error // nil: done
		words   string
	}
	refused := func(steps ...step) {
		t.Helper()
		for _, s := range steps {
			err := s.do()
			if s.is == nil && err != nil || s.is != nil && !errors.Is(err, s.is) {
				t.Errorf("%s: %v, want %v", s.summary, err, s.is)
			}
			if err != nil && !strings.Contains(err.Error(), s.words) {
				t.Errorf("%s: %v: does not tell %q", s.summary, err, s.words)
			}
		}
	}
	refused(
		step{"left without a swarm", func() error { return p1.Engine().Leave(ctx, true) }, swarm.ErrNotActive, "leaving the swarm: This node is not part"},
		step{"a list without a swarm", list(p1), swarm.ErrNotManager, "listing the swarm's nodes: "},
		step{"an address of somebody else", init("172.19.181.77"), swarm.ErrAddress, "172.19.181.77"},
		step{"made", init(c.Addr.String()), nil, ""},
		step{"made again", init(c.Addr.String()), swarm.ErrAlreadyMember, "making the swarm: "},
	)
	good := invitation(t, l, p1)
	join := func(m *enginetest.Machine, change func(*swarm.JoinOptions)) func() error {
		return func() error {
			o := good
			o.Addr = m.Addr
			change(&o)
			err := m.Engine().Join(ctx, o)
			if err != nil && strings.Contains(err.Error(), "SWMTKN") {
				t.Errorf("the error tells the token: %v", err)
			}
			return err
		}
	}
	asIs := func(*swarm.JoinOptions) {}

	// The slow ones, which take the engine's time limits, side by side.
	var silent net.Listener
	must(t, c.Do(func() (err error) { silent, err = net.Listen("tcp", "172.19.181.254:2400"); return err }))
	defer silent.Close()
	slow := make(chan func())
	for _, s := range []struct {
		m      *enginetest.Machine
		remote string
		is     error
		state  swarm.State
	}{
		{l.Slot(3), "172.19.181.254:2400", swarm.ErrJoinTimeout, swarm.Pending},
		{l.Slot(4), "172.19.181.254:2399", swarm.ErrManagerUnreachable, swarm.Inactive},
	} {
		go func() {
			err := join(s.m, func(o *swarm.JoinOptions) { o.Remotes = []string{s.remote} })()
			slow <- func() {
				if !errors.Is(err, s.is) {
					t.Errorf("joining at %s: %v, want %v", s.remote, err, s.is)
				}
				if i := info(t, s.m); i.State != s.state {
					t.Errorf("after joining at %s: %+v, want state %s", s.remote, i, s.state)
				}
			}
		}()
	}

	last := good.Token[len(good.Token)-4:]
	refused(
		step{"no token", join(p1, func(o *swarm.JoinOptions) { o.Token = "SWMTKN-1-x" }), swarm.ErrBadToken, "joining the swarm: "},
		step{"another secret", join(p1, func(o *swarm.JoinOptions) { o.Token = strings.TrimSuffix(o.Token, last) + "0000" }), swarm.ErrBadToken, "join token is necessary"},
		step{"another CA", join(p1, func(o *swarm.JoinOptions) { o.Token = o.Token[:15] + "000" + o.Token[18:] }), swarm.ErrCAMismatch, "fingerprint"},
		step{"joined", join(p1, asIs), nil, ""},
		step{"joined again", join(p1, asIs), swarm.ErrAlreadyMember, ""},
		step{"a worker's list", list(p1), swarm.ErrNotManager, ""},
		step{"a worker's rotation", func() error { return p1.Engine().RotateWorkerToken(ctx) }, swarm.ErrNotManager, "rotating"},
		step{"rotated", func() error { return c.Engine().RotateWorkerToken(ctx) }, nil, ""},
		step{"an old token", join(p2, asIs), swarm.ErrBadToken, ""},
		step{"a manager leaves", func() error { return c.Engine().Leave(ctx, false) }, swarm.ErrLastManager, ""},
	)
	id := info(t, p1).NodeID
	eventually(t, "p1 is ready", func() bool {
		n, err := c.Engine().Node(ctx, id)
		return err == nil && n.State == "ready"
	})
	for _, name := range []string{"p1", id[:10], "nobody"} {
		refused(
			step{"read by " + name, func() error { _, err := c.Engine().Node(ctx, name); return err }, swarm.ErrNotFound, name},
			step{"changed by " + name, func() error { return c.Engine().UpdateNode(ctx, name, 1, swarm.NodeSpec{}) }, swarm.ErrNotFound, name},
			step{"removed by " + name, func() error { return c.Engine().RemoveNode(ctx, name, true) }, swarm.ErrNotFound, name},
		)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	refused(
		step{"removed while up", func() error { return c.Engine().RemoveNode(ctx, id, false) }, swarm.ErrNodeUp, id},
		step{"the caller has given up", func() error { return c.Engine().Ping(ended) }, context.Canceled, ""},
	)
	for range 2 {
		(<-slow)()
	}
	refused(
		step{"joined while joining", join(l.Slot(3), asIs), swarm.ErrAlreadyMember, ""},
		step{"given up while joining", func() error { return l.Slot(3).Engine().Leave(ctx, true) }, nil, ""},
	)
	if t.Failed() {
		return
	}

	// A node that was removed does not know it: not while it runs, and not
	// after a restart. Only the controller can tell.
	must(t, c.Engine().RemoveNode(ctx, id, true))
	if i := info(t, p1); i.State != swarm.Active || i.Err() != nil {
		t.Errorf("removed: %+v", i)
	}
	must(t, p1.RestartEngine(ctx))
	if i := info(t, p1); i.State != swarm.Pending || i.NodeID != id {
		t.Errorf("removed, restarted: %+v", i)
	}
}

// TestLocked: an operator has locked the swarm.
func TestLocked(t *testing.T) {
	t.Parallel() // engines are waited for
	ctx := t.Context()
	l := lab(t)
	c := l.Controller
	_, err := c.Docker(ctx, "swarm", "update", "--autolock")
	must(t, err)
	must(t, c.RestartEngine(ctx))
	i := info(t, c)
	if i.State != swarm.Locked || !errors.Is(i.Err(), swarm.ErrLocked) {
		t.Errorf("locked: %+v", i)
	}
	if _, err := c.Engine().Cluster(ctx); !errors.Is(err, swarm.ErrLocked) {
		t.Errorf("asked while locked: %v", err)
	}
}

// TestNoLeader: one of two managers is gone, and with it the majority.
func TestNoLeader(t *testing.T) {
	t.Parallel() // engines are waited for
	ctx := t.Context()
	l := lab(t, 1)
	c, p1 := l.Controller, l.Slot(1)
	must(t, p1.Engine().Join(ctx, invitation(t, l, p1)))
	_, err := c.Docker(ctx, "node", "promote", info(t, p1).NodeID)
	must(t, err)
	eventually(t, "p1 is a manager", func() bool { return info(t, p1).Manager })
	p1.KillEngine()
	var seen []string
	eventually(t, "no leader is told", func() bool {
		_, err := c.Engine().Nodes(ctx)
		if err != nil {
			seen = append(seen, err.Error())
		}
		if err != nil && !errors.Is(err, swarm.ErrNoLeader) && !errors.Is(err, swarm.ErrManagerUnreachable) {
			t.Fatalf("without a leader: %v", err)
		}
		return errors.Is(err, swarm.ErrNoLeader)
	})
	if i := info(t, c); i.State != swarm.Active || !errors.Is(i.Err(), swarm.ErrNoLeader) {
		t.Errorf("without a leader: %+v (told before: %q)", i, seen)
	}
}

// TestExpired starts an engine whose certificate has expired in a drawer, or
// is of a time to come. The swarm's CA is the test's own, so that the test can
// sign such a certificate.
func TestExpired(t *testing.T) {
	t.Parallel() // engines are waited for
	ctx := t.Context()
	l := lab(t, 1, 2)
	c := l.Controller
	ca, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	now := time.Now()
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "swarm-ca"}, NotBefore: now.AddDate(-2, 0, 0), NotAfter: now.AddDate(10, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, root, root, ca.Public(), ca)
	must(t, err)
	key, err := x509.MarshalPKCS8PrivateKey(ca)
	must(t, err)
	for name, block := range map[string]*pem.Block{"ca.pem": {Type: "CERTIFICATE", Bytes: der}, "ca.key": {Type: "PRIVATE KEY", Bytes: key}} {
		must(t, os.WriteFile(filepath.Join(c.Run(), name), pem.EncodeToMemory(block), 0o600))
	}
	eventually(t, "the swarm to take another CA", func() bool {
		_, err := c.Docker(ctx, "swarm", "ca", "--rotate", "--ca-cert", filepath.Join(c.Run(), "ca.pem"), "--ca-key", filepath.Join(c.Run(), "ca.key"))
		if err == nil || !strings.Contains(err.Error(), "update out of sequence") {
			must(t, err)
			return true
		}
		return false // a new swarm writes to its entry too
	})

	for _, test := range []struct {
		m        *enginetest.Machine
		from, to time.Time
	}{
		{l.Slot(1), now.AddDate(0, -4, 0), now.AddDate(0, -1, 0)},
		{l.Slot(2), now.AddDate(0, 1, 0), now.AddDate(0, 4, 0)},
	} {
		m := test.m
		must(t, m.Engine().Join(ctx, invitation(t, l, m)))
		must(t, m.StopEngine())
		path := filepath.Join(m.DockerRoot(), "swarm/certificates/swarm-node.crt")
		data, err := os.ReadFile(path)
		must(t, err)
		block, _ := pem.Decode(data)
		cert, err := x509.ParseCertificate(block.Bytes)
		must(t, err)
		cert.NotBefore, cert.NotAfter = test.from, test.to
		forged, err := x509.CreateCertificate(rand.Reader, cert, root, cert.PublicKey, ca)
		must(t, err)
		must(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: forged}), 0o600))
		must(t, m.StartEngine(ctx))
		i := info(t, m)
		if i.State != swarm.Failed || !errors.Is(i.Err(), swarm.ErrCertificateTime) {
			t.Errorf("%s's certificate is valid from %s to %s: %+v", m.Name, test.from, test.to, i)
		}
		if _, _, _, _, to, err := swarm.CertificateOf(m.DockerRoot()); err != nil || !to.Equal(test.to.Truncate(time.Second)) {
			t.Errorf("the certificate is valid to %s, %v; want %s", to, err, test.to)
		}
		// What helps, once the clock is right.
		must(t, m.Engine().Leave(ctx, true))
		must(t, m.Engine().Join(ctx, invitation(t, l, m)))
	}
}

// TestLoadImages loads an archive as docker save writes it.
func TestLoadImages(t *testing.T) {
	t.Parallel() // engines are waited for
	ctx := t.Context()
	l := enginetest.New(t, enginetest.Options{})
	m := l.Slot(1)
	must(t, m.StartEngine(ctx))
	must(t, m.Engine().LoadImages(ctx, bytes.NewReader(archive(t, "hatchery.test/hello:1"))))
	out, err := m.Docker(ctx, "image", "ls", "--format", "{{.Repository}}:{{.Tag}}")
	must(t, err)
	if strings.TrimSpace(out) != "hatchery.test/hello:1" {
		t.Errorf("the engine has %q", out)
	}
	// The engine answers these with status 200 and an error in the stream, or
	// with a status of their own.
	for _, broken := range []string{"no archive at all", string(archive(t, "hatchery.test/hello:2")[:2000])} {
		err := m.Engine().LoadImages(ctx, strings.NewReader(broken))
		if err == nil || !strings.HasPrefix(err.Error(), "loading images into Docker: ") || errors.Is(err, swarm.ErrUnreachable) {
			t.Errorf("%.20q: %v", broken, err)
		}
	}
	m.KillEngine()
	if err := m.Engine().LoadImages(ctx, strings.NewReader("")); !errors.Is(err, swarm.ErrUnreachable) {
		t.Errorf("no engine: %v", err)
	}
}

// archive is an image of one layer with one file in it.
func archive(t *testing.T, name string) []byte {
	t.Helper()
	pack := func(files ...[2]string) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, f := range files {
			must(t, w.WriteHeader(&tar.Header{Name: f[0], Mode: 0o644, Size: int64(len(f[1]))}))
			_, err := w.Write([]byte(f[1]))
			must(t, err)
		}
		must(t, w.Close())
		return b.Bytes()
	}
	layer := pack([2]string{"hello", "hello\n"})
	sum := sha256.Sum256(layer)
	config, err := json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux", "config": map[string]any{"Cmd": []string{"/hello"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(sum[:])}},
	})
	must(t, err)
	manifest, err := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": []string{name}, "Layers": []string{"layer.tar"}}})
	must(t, err)
	return pack([2]string{"config.json", string(config)}, [2]string{"layer.tar", string(layer)}, [2]string{"manifest.json", string(manifest)})
}
