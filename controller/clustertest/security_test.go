//go:build linux

package clustertest_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"hatchery/controller"
	"hatchery/controller/clustertest"
	"hatchery/firstboot"
	"hatchery/firstboot/founding"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/enginetest"
	"hatchery/internal/enrol"
	"hatchery/internal/identity"
	"hatchery/internal/swarm"
)

// guarded is a cluster whose nodes speak often, and whose secrets are looked
// for in all the wrong places until the test is over.
func guarded(t *testing.T, slots ...int) *clustertest.Cluster {
	t.Helper()
	c := clustertest.New(t, clustertest.Options{
		Slots: slots,
		// There is no backup to be waited for.
		Founding:  founding.Waits{Settle: time.Second, Grace: 3 * time.Second},
		Intervals: firstboot.Intervals{Most: 5 * time.Second, Check: 5 * time.Second, Heartbeat: 2 * time.Second},
		Times: controller.Times{Rotate: 3 * time.Second, Join: time.Minute, Alive: 30 * time.Second, Pending: time.Minute,
			Settle: 2 * time.Second},
	})
	watchSecrets(t, c)
	return c
}

// settledBut is Settled without a slot.
func settledBut(c *clustertest.Cluster, slot int, more map[int]string) string {
	lines := strings.Split(c.Settled(more), "\n")
	return strings.Join(slices.DeleteFunc(lines, func(line string) bool {
		return strings.HasPrefix(line, clusterctrl.SlotName(slot)+" ")
	}), "\n")
}

// alarms are the alarms as "p2 clone".
func alarms(t *testing.T, c *clustertest.Cluster) string {
	t.Helper()
	var all []string
	for _, a := range view(t, c).Alarms {
		all = append(all, fmt.Sprintf("%s %s", clusterctrl.SlotName(a.Slot), a.Code))
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

// admitted says how often a slot was told to join since the service began.
func admitted(t *testing.T, c *clustertest.Cluster, slot int) (times int) {
	t.Helper()
	err := c.Service().Events(t.Context(), false, func(e controller.Event) error {
		if e.Kind == controller.EventJoin && e.Slot == slot && !strings.Contains(e.Detail, "told to wait") {
			times++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return times
}

func need(t testing.TB, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// lay puts an identity onto a machine's card, whoever's it is.
func lay(t *testing.T, m *enginetest.Machine, id *identity.Identity) {
	t.Helper()
	dir := filepath.Join(m.Etc(), "identity")
	need(t, os.MkdirAll(dir, 0o700),
		os.WriteFile(filepath.Join(dir, "key.pem"), id.Key, 0o600),
		os.WriteFile(filepath.Join(dir, "certificate.pem"), id.Certificate, 0o600),
		os.WriteFile(filepath.Join(dir, "ca.pem"), id.CA, 0o600))
}

// copyCard makes a card with what another card's image has.
func copyCard(t *testing.T, to, from *enginetest.Machine) {
	t.Helper()
	need(t, os.RemoveAll(to.Etc()), os.CopyFS(to.Etc(), os.DirFS(from.Etc())))
}

// loaded is an identity as a program has it.
func loaded(t *testing.T, id *identity.Identity) *enrol.Identity {
	t.Helper()
	l, err := enrol.NewIdentity(id.Key, id.Certificate, id.CA)
	need(t, err)
	return l
}

// A card is shut out until it gets a new key: docs/enrolment.md, "A lost card".
func TestRevoked(t *testing.T) {
	t.Parallel()
	c := guarded(t, 1, 2)
	ctx, manager, p1 := t.Context(), c.Controller, c.Slot(1)
	for _, m := range c.Machines() {
		c.PowerOn(m)
	}
	nodes := c.WaitSettled()
	lost := clustertest.NodeOf(t, nodes, 1)
	until(t, "the label to be set", func() bool {
		now, err := manager.Engine().Node(ctx, lost.ID)
		need(t, err)
		now.Labels["rack"] = "left"
		err = manager.Engine().UpdateNode(ctx, now.ID, now.Version, swarm.NodeSpec{Labels: now.Labels, Availability: now.Availability})
		if errors.Is(err, swarm.ErrConflict) {
			return false // it was changed in between
		}
		need(t, err)
		return true
	})
	rack := map[int]string{1: "rack=left"}
	c.WaitTable(c.Settled(rack))
	stolen, err := c.Store.Target(p1.Name, 1, p1.Hostname)
	need(t, err)
	before, err := manager.Engine().Cluster(ctx)
	need(t, err)

	rev, err := c.Service().Revoke(ctx, 1)
	if err != nil || !slices.Equal(rev.Removed, []string{lost.ID}) || !rev.Rotated || rev.Pending != "" || !strings.Contains(rev.Next, "build p1 --renew") {
		t.Fatalf("revoking gives %+v, %v", rev, err)
	}
	if now, err := manager.Engine().Cluster(ctx); err != nil || now.WorkerToken == before.WorkerToken {
		t.Errorf("the join token is what it was, %v", err)
	}
	without := settledBut(c, 1, nil)
	c.WaitTable(without)

	// The card that is still at work is told, and says so itself.
	refused := func(when string) {
		t.Helper()
		stands(t, c, p1, "join", enrol.StateFailed, "hatchery build p1 --renew")
		// It asks again and again; between two answers it says that it does.
		until(t, when+", the agent to say why", func() bool {
			s, err := c.AgentState(p1)
			return err == nil && s.Step == "join" && strings.Contains(s.Detail, "revoked")
		})
		if s := viewOf(t, c, 1); !strings.Contains(s.Refused, "revoked") || s.NodeID != "" {
			t.Errorf("%s, the controller shows %+v", when, s)
		}
		c.WaitTable(without)
	}
	refused("being revoked while it ran")
	// Neither is its engine's own certificate of use, nor the token that it had.
	until(t, "the swarm to refuse the old node", func() bool {
		return strings.Contains(logOf(t, p1, "dockerd"), lost.ID+" was removed from swarm")
	})
	c.KillAgent(p1)
	_ = p1.Engine().Leave(ctx, true) // it may have left what refused it
	err = p1.Engine().Join(ctx, swarm.JoinOptions{Remotes: []string{netip.AddrPortFrom(manager.Addr, swarm.Port).String()},
		Token: before.WorkerToken, Addr: p1.Addr, Availability: "active"})
	if !errors.Is(err, swarm.ErrBadToken) {
		t.Errorf("joining with the token of before gives %v", err)
	}

	// It was off for a while, with all that it had.
	c.PowerOff(p1)
	c.PowerOn(p1)
	refused("switched on again")

	// Built without --renew it is the same key, also for a service that was
	// started anew.
	c.PowerOff(p1)
	c.Reflash(p1)
	c.KillServe()
	c.StartServe()
	view(t, c)
	c.PowerOn(p1)
	refused("flashed again without --renew")
	if n := admitted(t, c, 1); n != 0 {
		t.Errorf("the revoked slot was let in %d times", n)
	}

	// With --renew it takes its old place.
	c.PowerOff(p1)
	c.Renew(p1)
	c.PowerOn(p1)
	nodes = c.WaitTable(c.Settled(rack))
	if now := clustertest.NodeOf(t, nodes, 1); now.ID == lost.ID {
		t.Errorf("the renewed card is the node that was revoked, %s", now.ID)
	}
	inOrderWith(t, c, rack)
	// And who has the old card still is refused still.
	a := call(t, p1, loaded(t, stolen), http.MethodPost, enrol.PathJoin, `{"boot_id":"thief","swarm":{"state":"inactive"}}`)
	if a.code != "revoked" {
		t.Errorf("the lost card is answered %+v", a)
	}
	inOrderWith(t, c, rack)
}

// A slot is revoked at the very moment at which it joins: whether its engine
// was quicker than the rotated token or not, it is out, and stays so.
func TestRevokedWhileJoining(t *testing.T) {
	t.Parallel()
	c := guarded(t, 1)
	manager, p1 := c.Controller, c.Slot(1)
	c.PowerOn(manager)
	without := settledBut(c, 1, nil)
	c.WaitTable(without)
	seed := uint64(time.Now().UnixNano() % 1e6)
	t.Logf("seed %d", seed)
	random := mathrand.New(mathrand.NewPCG(seed, 3))
	for range rounds(2, 20) {
		told := toldToJoin(t, c, 1)
		c.PowerOn(p1)
		select {
		case <-told:
		case <-time.After(patience):
			t.Fatal("the node was not told to join")
		}
		after := time.Duration(random.IntN(600)) * time.Millisecond // an engine joins within half a second
		time.Sleep(after)
		rev, err := c.Service().Revoke(t.Context(), 1)
		if err != nil || !rev.Rotated || rev.Pending != "" {
			t.Fatalf("revoked %v after it was told to join: %+v, %v", after, rev, err)
		}
		t.Logf("revoked %v after it was told to join: entries %v", after, rev.Removed)
		stands(t, c, p1, "join", enrol.StateFailed, "hatchery build p1 --renew")
		// A join that was under way has ended by now, one way or the other.
		c.WaitTable(without)
		until(t, "the engine to be of no swarm, or of none that takes it", func() bool {
			info, err := p1.Engine().Info(t.Context())
			return err == nil && (info.State == swarm.Inactive || info.State == swarm.Failed ||
				strings.Contains(logOf(t, p1, "dockerd"), info.NodeID+" was removed from swarm"))
		})
		c.WaitTable(without)
		c.PowerOff(p1)
		c.Renew(p1)
	}
	c.PowerOn(p1)
	inOrder(t, c)
}

// inOrderWith is inOrder with labels that an operator set.
func inOrderWith(t *testing.T, c *clustertest.Cluster, more map[int]string) {
	t.Helper()
	for _, m := range c.Machines() {
		until(t, m.Name+"'s agent to be steady", func() bool {
			s, err := c.AgentState(m)
			return err == nil && s.Step == firstboot.Steady
		})
	}
	if a := alarms(t, c); a != "" {
		t.Errorf("alarms: %s", a)
	}
	c.WaitTable(c.Settled(more))
}

// An answer is what a caller got: a code of the service's, or that no request
// came through.
type answered struct {
	status int    // 0: no answer at all
	code   string // of a refusal
	err    error
	body   string
}

// call calls the service from a machine with an identity as its program would.
func call(t *testing.T, m *enginetest.Machine, id *enrol.Identity, method, path, body string) answered {
	t.Helper()
	return knock(t, m, enrol.ClientTLS(id, 0), clusterctrl.ControllerAddr(), method, path, body)
}

// knock makes one call from a machine to the controller or a slot, with
// whatever certificate the configuration shows.
func knock(t *testing.T, m *enginetest.Machine, config *tls.Config, at netip.Addr, method, path, body string) (a answered) {
	t.Helper()
	var conn net.Conn
	err := m.Do(func() error {
		var err error
		conn, err = net.DialTimeout("tcp4", netip.AddrPortFrom(at, enrol.Port).String(), time.Minute)
		return err
	})
	if err != nil {
		t.Fatalf("%s cannot be reached: %v", at, err)
	}
	defer conn.Close()
	need(t, conn.SetDeadline(time.Now().Add(time.Minute)))
	s := tls.Client(conn, config)
	if _, a.err = fmt.Fprintf(s, "%s %s HTTP/1.1\r\nHost: controller\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", method, path, len(body), body); a.err != nil {
		return a
	}
	response, err := http.ReadResponse(bufio.NewReader(s), nil)
	if a.err = err; err != nil {
		return a
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	var refused enrol.Error
	_ = json.Unmarshal(data, &refused) // what is no refusal has no code
	return answered{status: response.StatusCode, code: string(refused.Code), err: err, body: string(data)}
}

// forged makes a certificate for a slot that no builder made: of an authority,
// or of itself where that is nil.
func forged(t *testing.T, slot int, by *tls.Certificate) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	need(t, err)
	name, err := url.Parse(fmt.Sprintf("hatchery://%s/slot/%d/generation/1", clustertest.Name, slot))
	need(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "p1"}, URIs: []*url.URL{name}, IPAddresses: []net.IP{clusterctrl.SlotAddr(slot).AsSlice()},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	parent, signer, chain := template, any(key), [][]byte(nil)
	if by != nil {
		parent, signer, chain = by.Leaf, by.PrivateKey, by.Certificate
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	need(t, err)
	return tls.Certificate{Certificate: append([][]byte{der}, chain...), PrivateKey: key}
}

// Nobody gets in who was not built with the cluster, or is not where he
// belongs.
func TestStrangers(t *testing.T) {
	t.Parallel()
	c := guarded(t, 1, 2)
	ctx, manager, p1, p2 := t.Context(), c.Controller, c.Slot(1), c.Slot(2)
	target := func(store *identity.Store, m *enginetest.Machine) *identity.Identity {
		t.Helper()
		id, err := store.Target(m.Name, m.Slot, m.Hostname)
		need(t, err)
		return id
	}
	foreign, err := identity.Open(filepath.Join(t.TempDir(), "foreign"), clustertest.Name) // the same name, another folder
	need(t, err)
	neighbour, err := identity.Open(filepath.Join(t.TempDir(), "neighbour"), "office")
	need(t, err)
	c.PowerOn(manager)
	c.PowerOn(p1)
	alone := settledBut(c, 2, nil)
	c.WaitTable(alone)
	joins := admitted(t, c, 1)

	own, mine := loaded(t, target(c.Store, p1)), loaded(t, target(c.Store, p2))
	showing := func(cert tls.Certificate) *tls.Config {
		config := enrol.ClientTLS(own, 0) // it knows the true controller
		// Whatever authorities the server names, this is shown.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
		return config
	}
	old := enrol.ClientTLS(own, 0)
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	const join = `{"boot_id":"stranger","swarm":{"state":"inactive"}}`
	for _, test := range []struct {
		summary string
		config  *tls.Config
		path    string // "": the call to join
		body    string
		want    string // "" for a connection without an answer
		says    string // in the answer
	}{
		{summary: "the slot itself", config: enrol.ClientTLS(own, 0), path: enrol.PathCluster, want: "200 "},
		{summary: "no certificate", config: showing(tls.Certificate{})},
		{summary: "a certificate of its own making", config: showing(forged(t, 1, nil))},
		{summary: "the same cluster's name, of another identity folder", config: showing(loaded(t, target(foreign, p1)).Certificate)},
		{summary: "another cluster's certificate", config: showing(loaded(t, target(neighbour, p1)).Certificate)},
		{summary: "a slot that plays the authority", config: showing(forged(t, 2, &own.Certificate))},
		{summary: "TLS 1.2", config: old},
		{summary: "the controller's certificate on a node", config: enrol.ClientTLS(loaded(t, target(c.Store, manager)), 0), want: "403 unknown-slot"},
		{summary: "the controller's certificate on a node that wants to look", config: enrol.ClientTLS(loaded(t, target(c.Store, manager)), 0), path: enrol.PathCluster, want: "403 unknown-slot"},
		{summary: "another slot's certificate from the own address", config: enrol.ClientTLS(mine, 0), want: "403 wrong-address", says: "its address is 172.19.181.2"},
		{summary: "another slot's certificate, for the time", config: enrol.ClientTLS(mine, 0), path: enrol.PathTime + "?nonce=n", want: "403 wrong-address"},
		{summary: "a slot that this cluster has not", config: enrol.ClientTLS(loaded(t, builtFor(t, c.Store, 3)), 0), want: "403 unknown-slot"},
		{summary: "a body that names another slot", config: enrol.ClientTLS(own, 0), body: `{"slot":2,"boot_id":"stranger","swarm":{"state":"inactive"}}`, want: "400 bad-request"},
	} {
		method, path, body := http.MethodPost, enrol.PathJoin, join
		if test.path != "" {
			method, path, body = http.MethodGet, test.path, ""
		}
		if test.body != "" {
			body = test.body
		}
		a := knock(t, p1, test.config, manager.Addr, method, path, body)
		have := fmt.Sprintf("%d %s", a.status, a.code)
		switch {
		case test.want == "" && (a.status != 0 || a.err == nil):
			t.Errorf("%s: answered %d: %s", test.summary, a.status, a.body)
		case test.want != "" && (have != test.want || !strings.Contains(a.body, test.says)):
			t.Errorf("%s: %s (%v), not %s: %s", test.summary, have, a.err, test.want, a.body)
		}
	}
	if n := admitted(t, c, 1) + admitted(t, c, 2); n != joins {
		t.Errorf("somebody was let in: %d joins, %d before", n, joins)
	}
	if a := alarms(t, c); a != "p2 wrong-address" {
		t.Errorf("the alarms are %q", a)
	}
	need(t, c.Service().ClearAlarms(ctx))

	// A card that was built with another identity folder says so.
	lay(t, p2, target(foreign, p2))
	c.PowerOn(p2)
	stands(t, c, p2, "clock", enrol.StateFailed, "same identity folder")
	if s := viewOf(t, c, 2); s.LastSeen != nil || s.NodeID != "" {
		t.Errorf("the foreign card is shown as %+v", s)
	}
	c.PowerOff(p2)
	c.WaitTable(alone)

	// The card of p2 in the slot of p1: the gadget has the MAC address of p2,
	// and the agent takes the address of p2.
	lay(t, p2, target(c.Store, p2))
	c.PowerOff(p1)
	kept := t.TempDir()
	need(t, os.CopyFS(kept, os.DirFS(p1.Etc())))
	copyCard(t, p1, p2)
	run := func(words ...string) {
		t.Helper()
		if out, err := p1.Command(ctx, "ip", words...).CombinedOutput(); err != nil {
			t.Fatalf("ip %q: %v: %s", words, err, out)
		}
	}
	run("address", "flush", "dev", p1.Link())
	run("link", "set", p1.Link(), "down")
	run("link", "set", p1.Link(), "address", clusterctrl.NodeMAC(2).String())
	c.StartAgent(p1)
	stands(t, c, p1, "clock", enrol.StateFailed, "port of slot 1")
	if a := alarms(t, c); a != "p2 wrong-address" {
		t.Errorf("with a card in the wrong slot the alarms are %q", a)
	}
	if n := admitted(t, c, 2); n != 0 {
		t.Errorf("the card in the wrong slot was let in %d times", n)
	}
	c.PowerOff(p1)
	c.Reflash(p1)
	need(t, os.RemoveAll(p1.Etc()), os.CopyFS(p1.Etc(), os.DirFS(kept)), c.Service().ClearAlarms(ctx))
	run("address", "flush", "dev", p1.Link())
	run("link", "set", p1.Link(), "down")
	run("link", "set", p1.Link(), "address", clusterctrl.NodeMAC(1).String())

	// Somebody else answers at the controller's address: no node tells him
	// anything, or believes him.
	c.KillServe()
	lay(t, manager, target(foreign, manager))
	c.StartServe()
	view(t, c)
	c.PowerOn(p1)
	stands(t, c, p1, "clock", enrol.StateFailed, "not of this cluster")
	c.KillServe()
	lay(t, manager, target(c.Store, manager))
	c.StartServe()

	// Everything in its place, everybody is let in.
	c.PowerOn(p2)
	inOrder(t, c)

	// Nodes keep backups for the controller: nobody else gets any from them.
	asNode := func(id *enrol.Identity) *tls.Config { return enrol.ClientTLS(id, 2) }
	for _, test := range []struct {
		summary string
		from    *enginetest.Machine
		id      *identity.Identity
		want    string
	}{
		{"the controller", manager, target(c.Store, manager), "200 "},
		{"another node", p1, target(c.Store, p1), "403 bad-request"},
		{"the controller of another identity folder", manager, target(foreign, manager), ""},
	} {
		config := asNode(own)
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &loaded(t, test.id).Certificate, nil
		}
		a := knock(t, test.from, config, p2.Addr, http.MethodGet, enrol.PathBackup, "")
		if have := fmt.Sprintf("%d %s", a.status, a.code); have != test.want && (test.want != "" || a.status != 0 || a.err == nil) {
			t.Errorf("%s asks a node for backups and is answered %s (%v), not %q: %s", test.summary, have, a.err, test.want, a.body)
		}
	}
}

// builtFor is the identity of a slot that the cluster does not have.
func builtFor(t *testing.T, store *identity.Store, n int) *identity.Identity {
	t.Helper()
	id, err := store.Target(clusterctrl.SlotName(n), n, clusterctrl.SlotName(n))
	need(t, err)
	return id
}

// A second machine comes up with a copy of a card that is at work.
func TestClone(t *testing.T) {
	t.Parallel()
	c := guarded(t, 1)
	ctx, p1 := t.Context(), c.Slot(1)
	for _, m := range c.Machines() {
		c.PowerOn(m)
	}
	nodes := c.WaitSettled()
	first := clustertest.NodeOf(t, nodes, 1)
	joins := admitted(t, c, 1)

	double := c.Double(p1)
	copyCard(t, double, p1)
	c.StartAgent(double)
	stands(t, c, double, "join", enrol.StateFailed, "another card with the identity of p1")
	if a := alarms(t, c); a != "p1 clone" {
		t.Errorf("the alarms are %q", a)
	}
	if n := admitted(t, c, 1); n != joins {
		t.Errorf("the copy was let in")
	}
	if info, err := double.Engine().Info(ctx); err != nil || info.State != swarm.Inactive {
		t.Errorf("the copy's engine is %s, %v", info.State, err)
	}
	// The first one is as it was, and goes on.
	seen := func() time.Time {
		if at := viewOf(t, c, 1).LastSeen; at != nil {
			return *at
		}
		return time.Time{}
	}
	then := seen()
	until(t, "the first card to be heard again", func() bool { return seen().After(then) })
	stays := func() {
		t.Helper()
		if now := clustertest.NodeOf(t, c.WaitSettled(), 1); now.ID != first.ID {
			t.Errorf("the node is %s, it was %s", now.ID, first.ID)
		}
		until(t, "the first card to be steady", func() bool {
			s, err := c.AgentState(p1)
			return err == nil && s.Step == firstboot.Steady
		})
	}
	stays()
	// A reboot of it is none of another card, and one of the copy is.
	c.PowerOff(p1)
	c.PowerOn(p1)
	stays()
	c.PowerOff(double)
	c.PowerOn(double)
	stands(t, c, double, "join", enrol.StateFailed, "another card with the identity of p1")
	stays()
	if n := admitted(t, c, 1); n != joins {
		t.Errorf("the copy was let in, or the first one once more")
	}

	// The copy is found: the alarm is a thing of the past.
	c.PowerOff(double)
	need(t, c.Service().ClearAlarms(ctx))
	inOrder(t, c)
}

// A member's card is copied whole: the copy has the swarm's certificate too.
// Nobody can tell which is which, but that there are two.
func TestCopiedMember(t *testing.T) {
	t.Parallel()
	c := guarded(t, 1, 2)
	ctx, p1 := t.Context(), c.Slot(1)
	for _, m := range c.Machines() {
		c.PowerOn(m)
	}
	first := clustertest.NodeOf(t, c.WaitSettled(), 1)
	double := c.Double(p1)
	copyCard(t, double, p1)
	for _, name := range []string{"certificates", "docker-state.json", "state.json"} {
		from, to := filepath.Join(p1.DockerRoot(), "swarm", name), filepath.Join(double.DockerRoot(), "swarm", name)
		need(t, os.MkdirAll(filepath.Dir(to), 0o700))
		if name == "certificates" {
			need(t, os.CopyFS(to, os.DirFS(from)))
			continue
		}
		data, err := os.ReadFile(from)
		need(t, err, os.WriteFile(to, data, 0o600))
	}
	c.StartAgent(double)
	until(t, "an alarm", func() bool { return alarms(t, c) == "p1 clone" })
	// There is one entry all the same, and nothing of the others' is touched.
	if now := clustertest.NodeOf(t, c.WaitSettled(), 1); now.ID != first.ID {
		t.Errorf("the node is %s, it was %s", now.ID, first.ID)
	}

	// The way out: neither of them.
	if _, err := c.Service().Revoke(ctx, 1); err != nil {
		t.Fatal(err)
	}
	without := settledBut(c, 1, nil)
	c.WaitTable(without)
	for _, m := range []*enginetest.Machine{p1, double} {
		stands(t, c, m, "join", enrol.StateFailed, "revoked")
	}
	c.WaitTable(without)
	c.PowerOff(double)
	c.PowerOff(p1)
	c.Renew(p1)
	c.PowerOn(p1)
	inOrder(t, c)
}

// secretWords are what only secrets have in them: Docker's join tokens and
// unlock keys, and keys in PEM.
var secretWords = []string{"SWMTKN-", "SWMKEY-", "PRIVATE KEY"}

// rightful says whether a file of a machine's is one in which secrets are: its
// identity's key, and what Docker keeps of the swarm.
func rightful(name string) bool {
	return name == "etc/identity/key.pem" || strings.HasPrefix(name, "docker/swarm/")
}

// watchSecrets looks for secrets: while the test runs in what processes were
// started with, and at its end in every file, every log, and what the service
// tells.
func watchSecrets(t *testing.T, c *clustertest.Cluster) {
	t.Helper()
	found := map[string]bool{}
	report := func(place string) {
		if !found[place] {
			found[place] = true
			t.Errorf("a secret is in %s", place)
		}
	}
	spaces := map[uint64]string{}
	for _, m := range c.Machines() {
		var s syscall.Stat_t
		need(t, syscall.Stat(m.NetNS(), &s))
		spaces[s.Ino] = m.Name
	}
	stop, looked := make(chan struct{}), 0
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			for place := range processesWithSecrets(spaces, &looked) {
				report(place)
			}
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
	// Before the lab goes.
	t.Cleanup(func() {
		close(stop)
		wg.Wait()
		if looked == 0 {
			t.Error("no process of the lab was looked at")
		}
		places, right := filesWithSecrets(t, c)
		for _, place := range places {
			report(place)
		}
		if right == 0 {
			t.Error("no secret was found where they belong: they were not looked for well")
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		told := new(bytes.Buffer)
		if v, err := c.Service().Cluster(ctx); err == nil {
			_ = json.NewEncoder(told).Encode(v)
		}
		_ = c.Service().Events(ctx, false, func(e controller.Event) error { return json.NewEncoder(told).Encode(e) })
		if isSecret(told.Bytes()) {
			report("what the service tells")
		}
	})
}

func isSecret(data []byte) bool {
	return slices.ContainsFunc(secretWords, func(word string) bool { return bytes.Contains(data, []byte(word)) })
}

// processesWithSecrets gives what the processes in the namespaces were started with that
// holds a secret: their arguments and environments.
func processesWithSecrets(spaces map[uint64]string, looked *int) map[string]bool {
	places := map[string]bool{}
	pids, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range pids {
		var s syscall.Stat_t
		if syscall.Stat(filepath.Join(dir, "ns", "net"), &s) != nil || spaces[s.Ino] == "" {
			continue // it has ended, or is none of ours
		}
		arguments, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil {
			continue
		}
		*looked++
		for _, name := range []string{"cmdline", "environ"} {
			if data, err := os.ReadFile(filepath.Join(dir, name)); err == nil && isSecret(data) {
				command, _, _ := bytes.Cut(arguments, []byte{0})
				places[fmt.Sprintf("the %s of %s's %s", name, spaces[s.Ino], command)] = true
			}
		}
	}
	return places
}

// filesWithSecrets gives the files of the lab's machines that hold secrets and should
// not, and how many do that should.
func filesWithSecrets(t *testing.T, c *clustertest.Cluster) (places []string, right int) {
	t.Helper()
	wrong := map[string]bool{}
	// The folder of the lab has those of its machines: a double's too.
	lab := filepath.Dir(c.Controller.Dir)
	err := filepath.WalkDir(lab, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // the engines are at work
		case err != nil:
			return err
		case !entry.Type().IsRegular():
			return nil
		}
		name, _ := filepath.Rel(lab, path)
		machine, name, _ := strings.Cut(name, "/")
		if info, err := entry.Info(); err != nil || rightful(name) && info.Size() > 1<<20 {
			return nil // the swarm's log has 64 MB, most of it zeros
		}
		data, err := os.ReadFile(path)
		switch {
		case err != nil || !isSecret(data):
		case rightful(name):
			right++
		default:
			wrong[machine+"'s "+name] = true
		}
		return nil
	})
	need(t, err)
	return slices.Sorted(maps.Keys(wrong)), right
}
