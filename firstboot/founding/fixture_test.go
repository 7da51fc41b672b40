package founding_test

import (
	"cmp"
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
	"slices"
	"strings"
	"testing"
	"time"

	"hatchery/firstboot/founding"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/nodefile"
	"hatchery/internal/swarm"
)

// The engine's words.
const (
	wordsExpired = "Swarm certificates have expired. To replace them, leave the swarm and join again."
	wordsBroken  = "manager stopped: can't initialize raft node: failed to open WAL: wal: crc mismatch"
	wordsAddress = "manager stopped: failed to listen on remote API address: listen tcp 172.19.181.254:2377: bind: cannot assign requested address"
	wordsFull    = "manager stopped: can't initialize raft node: open /var/lib/docker/swarm/raft/wal-v3-encrypted: no space left on device"
)

var controllerAddr = clusterctrl.ControllerAddr()

// A machine is a controller as far as its swarm goes: Docker's folder is a
// real one, and a fake engine behaves by what lies in it. The state of a swarm
// is a line in raft/wal:
//
//	good c1      opens
//	stuck c1     does not open, but by force
//	hopeless c1  does not open, and not by force either
//	hangs c1     is pending for ever, opens by force
//	nowhere c1   does not open because the address is not there
//	full c1      does not open because the disk is full
//	locked c1    is locked with a key
type machine struct {
	t     *testing.T
	root  string // Docker's folder
	state string // hatchery's
	log   []string

	running   bool
	service   bool // the service runs
	info      swarm.Info
	expiry    time.Duration
	heartbeat time.Duration
	signs     time.Duration // the life of the certificates that it really gives
	deaf      bool          // its overlay networks do not work
	nodes     []swarm.Node
	made      int

	// The agent is killed at a call: the n-th, before or after it had its effect.
	calls    int
	killAt   int
	killLate bool
}

// killed is what ends the agent.
type killed struct{}

// call is the start of a call to the machine; the function that it gives is
// its end.
func (m *machine) call(format string, args ...any) func() {
	what := fmt.Sprintf(format, args...)
	if len(m.log) == 0 || m.log[len(m.log)-1] != what {
		m.log = append(m.log, what)
	}
	m.calls++
	n := m.calls
	if n == m.killAt && !m.killLate {
		panic(killed{})
	}
	return func() {
		if n == m.killAt && m.killLate {
			panic(killed{})
		}
	}
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	dir := t.TempDir()
	m := &machine{t: t, root: filepath.Join(dir, "docker"), state: filepath.Join(dir, "hatchery"), service: true}
	m.must(os.MkdirAll(m.root, 0o700))
	m.start()
	return m
}

func (m *machine) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) path(name string) string { return filepath.Join(m.root, "swarm", name) }

// put writes the folder of a swarm, as a manager's engine leaves it.
func (m *machine) put(wal string) {
	m.t.Helper()
	m.write("raft/wal", wal)
	m.write("docker-state.json", "{}")
	m.certificate(swarm.RoleManager)
}

func (m *machine) write(name, content string) {
	m.t.Helper()
	m.must(os.MkdirAll(filepath.Dir(m.path(name)), 0o700))
	m.must(os.WriteFile(m.path(name), []byte(content), 0o600))
}

func (m *machine) certificate(role string) {
	m.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	m.must(err)
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		Subject: pkix.Name{CommonName: "node1", Organization: []string{"c1"}, OrganizationalUnit: []string{role}}}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	m.must(err)
	m.write("certificates/swarm-node.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
}

// wal is the state that lies in Docker's folder, or one that was set aside.
func wal(dir string) string {
	data, err := os.ReadFile(filepath.Join(dir, "raft/wal"))
	if err != nil {
		return ""
	}
	return string(data)
}

// kept are the states that were set aside.
func (m *machine) kept() []string {
	m.t.Helper()
	dirs, err := filepath.Glob(filepath.Join(m.root, "swarm.kept-*"))
	m.must(err)
	var states []string
	for _, dir := range dirs {
		states = append(states, wal(dir))
	}
	return states
}

// start starts the engine: it opens what lies in its folder.
func (m *machine) start() {
	if m.running {
		return
	}
	m.running, m.info = true, swarm.Info{State: swarm.Inactive}
	m.signs, m.deaf = m.expiry, false
	if _, err := os.Stat(m.path("docker-state.json")); err != nil {
		return
	}
	m.info = m.opened(false)
}

func (m *machine) opened(force bool) swarm.Info {
	how, cluster, _ := strings.Cut(wal(filepath.Join(m.root, "swarm")), " ")
	active := swarm.Info{State: swarm.Active, Manager: true, NodeID: "node-" + cluster, ClusterID: cluster, NodeAddr: controllerAddr}
	failed := func(words string) swarm.Info { return swarm.Info{State: swarm.Failed, Error: words} }
	switch {
	case how == "good", force && (how == "stuck" || how == "hangs"):
		return active
	case how == "stuck", how == "hopeless":
		return failed(wordsBroken)
	case how == "hangs":
		return swarm.Info{State: swarm.Pending}
	case how == "nowhere":
		return failed(wordsAddress)
	case how == "full":
		return failed(wordsFull)
	case how == "locked":
		return swarm.Info{State: swarm.Locked, Error: "Swarm is encrypted and needs to be unlocked before it can be used."}
	case how == "worker":
		return swarm.Info{State: swarm.Active, NodeID: "node1"}
	}
	return failed("nothing to open")
}

func (m *machine) Info(context.Context) (swarm.Info, error) {
	defer m.call("look")()
	if !m.running {
		return swarm.Info{}, fmt.Errorf("asking Docker for its state: %w", swarm.ErrUnreachable)
	}
	return m.info, nil
}

// Join makes the engine a manager of another's swarm.
func (m *machine) Join(_ context.Context, o swarm.JoinOptions) error {
	defer m.call("join %s at %s with %s", o.Remotes[0], o.Addr, o.Token)()
	if m.info.State != swarm.Inactive {
		return fmt.Errorf("joining the swarm: %w", swarm.ErrAlreadyMember)
	}
	m.info = swarm.Info{State: swarm.Active, Manager: true, NodeID: "joined", ClusterID: "theirs", NodeAddr: o.Addr}
	return nil
}

func (m *machine) Init(_ context.Context, o swarm.InitOptions) (string, error) {
	name := "init"
	if o.ForceNewCluster {
		name = "init by force"
	}
	defer m.call("%s at %s", name, o.Addr)()
	switch {
	case !m.running:
		return "", swarm.ErrUnreachable
	case m.info.State != swarm.Inactive && !(o.ForceNewCluster && m.info.Manager):
		return "", fmt.Errorf("making the swarm: %w", swarm.ErrAlreadyMember)
	}
	m.deaf = m.info.Manager // whoever listened to the first manager is gone
	dir := filepath.Join(m.root, "swarm")
	if !o.ForceNewCluster {
		if old := wal(dir); old != "" {
			m.t.Errorf("a swarm is made over %q", old) // the engine deletes it
		}
		m.made++
		m.put(fmt.Sprintf("good new%d", m.made))
		m.expiry, m.heartbeat, m.signs = o.CertExpiry, cmp.Or(o.Heartbeat, 5*time.Second), 90*24*time.Hour
	}
	m.write("docker-state.json", "{}")
	info := m.opened(o.ForceNewCluster)
	if info.State != swarm.Active {
		m.info = swarm.Info{State: swarm.Inactive} // moby: the runner is dropped, the folder stays
		return "", errors.New("making the swarm: " + wordsBroken)
	}
	_, cluster, _ := strings.Cut(wal(dir), " ")
	m.write("raft/wal", "good "+cluster)
	m.info = info
	return info.NodeID, nil
}

func (m *machine) Cluster(context.Context) (swarm.Cluster, error) {
	return swarm.Cluster{ID: m.info.ClusterID, Settings: swarm.Settings{CertExpiry: m.expiry, Heartbeat: m.heartbeat}}, nil
}

func (m *machine) Set(_ context.Context, o swarm.Settings) error {
	defer m.call("set the certificates' life to %v, the heartbeat to %v", o.CertExpiry, o.Heartbeat)()
	set := o.Or(swarm.Settings{CertExpiry: m.expiry, Heartbeat: m.heartbeat})
	m.expiry, m.heartbeat = set.CertExpiry, set.Heartbeat
	return nil
}

func (m *machine) Nodes(context.Context) ([]swarm.Node, error) { return m.nodes, nil }

func (m *machine) StopUnit(_ context.Context, name string) error {
	defer m.call("stop %s", name)()
	switch name {
	case "docker.service":
		m.running = false
	case "hatchery.service":
		m.service = false
	}
	return nil
}

func (m *machine) StartUnit(_ context.Context, name string) error {
	defer m.call("start %s", name)()
	switch name {
	case "docker.service":
		m.start()
	case "hatchery.service":
		m.service = true
	}
	return nil
}

// A backup is one whose state is a line as in raft/wal.
type backup struct {
	m   *machine
	wal string
	err error
	// restoring is called while it is restored.
	restoring func()
}

func (b *backup) ID() string     { return b.wal }
func (b *backup) String() string { return "the backup " + b.wal }

func (b *backup) Restore(_ context.Context, dockerRoot string, keepState bool) error {
	defer b.m.call("restore %s, keep the service's state: %v", b.wal, keepState)()
	if b.m.running || b.m.service {
		b.m.t.Errorf("restored while the engine (%v) or the service (%v) runs", b.m.running, b.m.service)
	}
	if entries, err := os.ReadDir(filepath.Join(dockerRoot, "swarm")); err == nil && len(entries) > 0 {
		b.m.t.Errorf("restored over %v", entries)
	}
	if b.restoring != nil {
		b.restoring()
	}
	if b.err != nil {
		return b.err
	}
	b.m.put(b.wal)
	return nil
}

// keepers are nodes that keep backups. rounds is what they say, one time
// after the other; the last one goes on.
type keepers struct {
	m      *machine
	rounds []round
	asked  []int // the slots that were asked the last time
}

type round struct {
	answered []int
	backups  []founding.Backup
}

func (k *keepers) Offers(_ context.Context, nodes []nodefile.Target) ([]founding.Backup, []int, error) {
	defer k.m.call("ask the nodes")()
	k.asked = nil
	for _, n := range nodes {
		k.asked = append(k.asked, n.Slot)
	}
	if len(k.rounds) == 0 {
		return nil, k.asked, nil
	}
	r := k.rounds[0]
	if len(k.rounds) > 1 {
		k.rounds = k.rounds[1:]
	}
	return r.backups, slices.DeleteFunc(slices.Clone(r.answered), func(n int) bool { return !slices.Contains(k.asked, n) }), nil
}

func nodeFile(slots ...int) *nodefile.Node {
	n := &nodefile.Node{Cluster: "homelab", Name: "controller", Role: nodefile.Controller, Hostname: "hammond", Network: "cnat",
		Address: netip.PrefixFrom(controllerAddr, 24), ControllerAddr: controllerAddr, Docker: true,
		Swarm:   &nodefile.Swarm{CertExpiry: "8760h", Heartbeat: "8s", AddressPool: "10.181.0.0/16"},
		Targets: []nodefile.Target{{Name: "controller", Hostname: "hammond", Address: controllerAddr}}}
	for _, slot := range slots {
		n.Targets = append(n.Targets, nodefile.Target{Name: fmt.Sprintf("p%d", slot), Slot: slot, Hostname: fmt.Sprintf("p%d", slot), Address: clusterctrl.SlotAddr(slot)})
	}
	return n
}

// founding is a new agent's.
func (m *machine) founding(k *keepers, slots ...int) *founding.Founding {
	f := &founding.Founding{
		Engine: m, Units: m,
		Clock: func(context.Context) (string, bool, error) { return "ntp", true, nil },
		Node:  nodeFile(slots...), DockerRoot: m.root, StateDir: m.state, Service: "hatchery.service",
		Waits: founding.Waits{Poll: time.Millisecond, Pending: 10 * time.Millisecond, Engine: time.Minute, Settle: 20 * time.Millisecond, Grace: 100 * time.Millisecond},
	}
	if k != nil {
		f.Backups = k
	}
	return f
}
