package doctor_test

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hatchery/controller/doctor"
	"hatchery/internal/enrol"
	"hatchery/internal/enrol/enroltest"
	"hatchery/internal/nodefile"
	"hatchery/internal/testtool"
)

// nobody is a service that does not answer.
type nobody struct{}

var errNobody = errors.New("nobody answers on the socket")

func (nobody) Call(context.Context, string, string, any) error     { return errNobody }
func (nobody) Copy(context.Context, string, io.Writer) error       { return errNobody }
func (nobody) Cluster(context.Context) (*enrol.ClusterView, error) { return nil, errNobody }
func marshal(t *testing.T, n *nodefile.Node) []byte {
	t.Helper()
	data, err := n.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestHere looks at this machine as at a controller without systemd, service and
// Docker: it finds that, and its own part is looked at all the same.
func TestHere(t *testing.T) {
	config, root := t.TempDir(), t.TempDir()
	places := doctor.Places{Root: root, ConfigDir: config, DockerHost: "unix://" + filepath.Join(root, "none.sock"), DockerRoot: filepath.Join(root, "docker")}
	if _, _, err := doctor.Here(places, nobody{}, "v1"); !errors.Is(err, doctor.ErrNoController) {
		t.Errorf("of nothing: %v", err)
	}
	n := &nodefile.Node{
		Cluster: "homelab", Name: "controller", Role: nodefile.Controller, Hostname: "hammond", Network: "cnat", Docker: true,
		Address: netip.MustParsePrefix("172.19.181.254/24"), ControllerAddr: netip.MustParseAddr("172.19.181.254"),
		Swarm: &nodefile.Swarm{Offline: true}, Netboot: &nodefile.Netboot{},
	}
	write := func(name string, content []byte) {
		t.Helper()
		place := filepath.Join(config, name)
		if err := os.MkdirAll(filepath.Dir(place), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(place, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("node.json", []byte("{"))
	if _, _, err := doctor.Here(places, nobody{}, "v1"); err == nil || errors.Is(err, doctor.ErrNoController) {
		t.Errorf("of a broken file: %v", err)
	}
	worker := *n
	worker.Name, worker.Role, worker.Slot = "p1", nodefile.Worker, 1
	write("node.json", marshal(t, &worker))
	if _, _, err := doctor.Here(places, nobody{}, "v1"); !errors.Is(err, doctor.ErrNoController) || !strings.Contains(err.Error(), "it is p1") {
		t.Errorf("of a node: %v", err)
	}
	write("node.json", marshal(t, n))
	files := enroltest.NewCluster(t, "homelab").Files(t, 0)
	write("identity/key.pem", files.Key)
	write("identity/certificate.pem", files.Certificate)
	write("identity/ca.pem", files.CA)

	o, closed, err := doctor.Here(places, nobody{}, "v1")
	if err != nil {
		t.Fatal(err)
	}
	defer closed()
	o.Interfaces = nil // this machine's are its own matter
	o.Filter = func(context.Context) (string, error) { return "-P FORWARD DROP\n", nil }
	got := told(doctor.Examine(t.Context(), o))
	for _, want := range []string{
		"broken controller service-down: the controller's service does not answer: nobody answers on the socket\n",
		"broken controller engine-down: Docker does not answer: ",
		"broken controller forward-policy: ",
		"warning controller address-pool: ",
		"unchecked: slots without cards: nobody answers on the socket\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("without %q:\n%s", want, got)
		}
	}
	for _, not := range []string{"identity-expires", "certificate\n", "own health", "clock"} {
		if strings.Contains(got, not) {
			t.Errorf("with %q:\n%s", not, got)
		}
	}
}

// TestFilterOfARealKernel has iptables itself list the rules, as hatchery's
// overlay makes them and as Docker's policy does.
func TestFilterOfARealKernel(t *testing.T) {
	testtool.NeedRoot(t)
	testtool.Need(t, "iptables")
	unshare := testtool.Need(t, "unshare")
	for _, test := range []struct {
		summary, rules string
		broken         bool
	}{
		{"nothing", "true", false},
		{"Docker's policy alone", "iptables -w -P FORWARD DROP", true},
		{"the slots' rules", `iptables -w -P FORWARD DROP; iptables -w -N DOCKER-USER
			iptables -w -I DOCKER-USER 1 -o br0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
			iptables -w -I DOCKER-USER 1 -i br0 -j ACCEPT; iptables -w -I FORWARD 1 -j DOCKER-USER`, false},
		{"rules that nothing leads to", `iptables -w -P FORWARD DROP; iptables -w -N DOCKER-USER
			iptables -w -I DOCKER-USER 1 -o br0 -j ACCEPT; iptables -w -I DOCKER-USER 1 -i br0 -j ACCEPT
			iptables -w -F FORWARD; iptables -w -D FORWARD -j DOCKER-USER 2>/dev/null || true
			iptables -w -E DOCKER-USER OTHER`, true},
	} {
		c := well()
		c.filter = testtool.Run(t, unshare, "-n", "sh", "-ec", test.rules+"\niptables -w -S")
		if got := told(c.examine(t)); strings.Contains(got, "forward-policy") != test.broken || strings.Contains(got, "unchecked") {
			t.Errorf("%s:\n%s%s", test.summary, c.filter, got)
		}
	}
}
