package member_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"hatchery/firstboot/member"
	"hatchery/internal/enrol"
	"hatchery/internal/swarm"
)

// now is the time of the tests that go by fakes.
var now = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

// writeCertificate makes the certificate of a node of a swarm where the engine
// keeps it, with a CA of its own, and the key.
func writeCertificate(t testing.TB, dockerRoot, nodeID, clusterID string, from, to time.Time) {
	t.Helper()
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "swarm-ca"},
		NotBefore: from.AddDate(-1, 0, 0), NotAfter: to.AddDate(20, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2),
		Subject:      pkix.Name{CommonName: nodeID, Organization: []string{clusterID}, OrganizationalUnit: []string{swarm.RoleWorker}},
		NotBefore:    from, NotAfter: to, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:    []string{nodeID, swarm.RoleWorker, "swarm-ca"},
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, &key.PublicKey, caKey)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(dockerRoot, "swarm/certificates")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"swarm-root-ca.crt": {Type: "CERTIFICATE", Bytes: caDER},
		"swarm-node.crt":    {Type: "CERTIFICATE", Bytes: der},
		"swarm-node.key":    {Type: "PRIVATE KEY", Headers: map[string]string{"kek-version": "0"}, Bytes: keyDER},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// A fake plays a node's engine, its units, its clock and the controller, with
// the engine's real words. It writes down what is asked of it.
type fake struct {
	t    *testing.T
	root string
	log  []string

	info    swarm.Info
	silent  int // so many looks find no engine
	looks   int // since the state was set
	become  func(looks int) *swarm.Info
	nodes   int
	cluster string // that is joined next

	joins   []error // what each join gives; nil at the end: success
	leaves  []error
	answers []any // what the controller says: a *enrol.JoinAnswer or an error; the last one again and again
	asked   []enrol.JoinRequest
	clock   error
	stops   []error
	dial    error
	// restarted is what a restart makes of the engine; nil: nothing.
	restarted func(*fake)
	synced    func(*fake)
}

func (f *fake) note(format string, args ...any) { f.log = append(f.log, fmt.Sprintf(format, args...)) }

func (f *fake) set(info swarm.Info) { f.info, f.looks = info, 0 }

func (f *fake) Info(context.Context) (swarm.Info, error) {
	if f.silent > 0 {
		f.silent--
		return swarm.Info{}, fmt.Errorf("asking Docker for its state: %w", swarm.ErrUnreachable)
	}
	f.looks++
	if f.become != nil {
		if next := f.become(f.looks); next != nil {
			f.become = nil
			f.set(*next)
		}
	}
	return f.info, nil
}

// member makes the engine a member of the cluster that is joined next.
func (f *fake) member() swarm.Info {
	f.nodes++
	id := fmt.Sprintf("node%d", f.nodes)
	writeCertificate(f.t, f.root, id, f.cluster, now.Add(-time.Hour), now.AddDate(0, 3, 0))
	return swarm.Info{State: swarm.Active, NodeID: id}
}

func (f *fake) Join(_ context.Context, o swarm.JoinOptions) error {
	f.note("join %s %s as %s, %s", o.Remotes[0], o.Token, o.Addr, o.Availability)
	if f.info.State != swarm.Inactive {
		return engineError(swarm.ErrAlreadyMember)
	}
	if len(f.joins) > 0 {
		err := f.joins[0]
		f.joins = f.joins[1:]
		if err != nil {
			return err
		}
	}
	f.set(f.member())
	return nil
}

func (f *fake) Leave(_ context.Context, force bool) error {
	f.note("leave force=%v", force)
	if len(f.leaves) > 0 {
		err := f.leaves[0]
		f.leaves = f.leaves[1:]
		if err != nil {
			return err
		}
	}
	if err := os.RemoveAll(filepath.Join(f.root, "swarm")); err != nil {
		f.t.Fatal(err)
	}
	f.become = nil
	f.set(swarm.Info{State: swarm.Inactive})
	return nil
}

func (f *fake) StopUnit(_ context.Context, name string) error {
	f.note("stop %s", name)
	if len(f.stops) > 0 {
		err := f.stops[0]
		f.stops = f.stops[1:]
		return err
	}
	return nil
}

func (f *fake) StartUnit(_ context.Context, name string) error {
	f.note("start %s", name)
	f.silent = 2
	if f.restarted != nil {
		f.restarted(f)
	}
	return nil
}

func (f *fake) SyncClock(context.Context) error {
	f.note("sync the clock")
	if f.synced != nil {
		f.synced(f)
	}
	return f.clock
}

// engineError is one of package swarm's, as its engine gives it.
func engineError(kind error) error { return fmt.Errorf("joining the swarm: %w", kind) }

// controller is the fake's other half: both have a method Join.
type controller struct{ *fake }

func (c controller) Join(_ context.Context, r enrol.JoinRequest) (*enrol.JoinAnswer, error) {
	c.note("ask %s %s %s", r.Swarm.State, r.Swarm.NodeID, r.Swarm.ClusterID)
	c.asked = append(c.asked, r)
	if len(c.answers) == 0 {
		return nil, errors.New("no answer is left")
	}
	a := c.answers[0]
	if len(c.answers) > 1 {
		c.fake.answers = c.answers[1:]
	}
	switch a := a.(type) {
	case *enrol.JoinAnswer:
		return a, nil
	case error:
		return nil, a
	}
	return nil, nil
}

func (f *fake) newMember() *member.Member {
	return &member.Member{
		Engine: f, Controller: controller{f}, Units: f, SyncClock: f.SyncClock,
		DockerRoot: f.root, Addr: netip.MustParseAddr("172.19.181.3"), ControllerAddr: netip.MustParseAddr("172.19.181.254"),
		Slot: 3, BootID: "boot", AgentVersion: "1",
		Waits: member.Waits{Poll: time.Millisecond, Pending: 20 * time.Millisecond, Failed: 20 * time.Millisecond, Engine: time.Minute},
		Dial:  func(context.Context, string) error { return f.dial },
		Now:   func() time.Time { return now },
	}
}
