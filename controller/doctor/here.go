package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"hatchery/firstboot/clock"
	"hatchery/firstboot/health"
	"hatchery/firstboot/systemd"
	"hatchery/internal/enrol"
	"hatchery/internal/nodefile"
	"hatchery/internal/swarm"
	"hatchery/netboot"
)

// Places are where a controller has what. Zero fields are the usual ones.
type Places struct {
	Root       string // of the machine's files: /
	ConfigDir  string // node.json and identity/: /etc/hatchery
	DockerHost string // unix:///run/docker.sock
	DockerRoot string // /var/lib/docker
}

// A Service is what is asked of the controller's service; *controller.Client is
// one.
type Service interface {
	netboot.Caller
	Cluster(ctx context.Context) (*enrol.ClusterView, error)
}

// ErrNoController says that this machine is no controller of a cluster.
var ErrNoController = errors.New("this machine is no controller")

// toolTime is how long a program that is asked may take.
const toolTime = 30 * time.Second

// Here are the options of the controller that this program runs on, as root.
// After the examination they are closed. version is the service's.
func Here(p Places, service Service, version string) (o Options, closed func(), err error) {
	for _, d := range []struct {
		value *string
		usual string
	}{
		{&p.Root, "/"}, {&p.ConfigDir, nodefile.ConfigDir},
		{&p.DockerHost, "unix:///run/docker.sock"}, {&p.DockerRoot, "/var/lib/docker"},
	} {
		if *d.value == "" {
			*d.value = d.usual
		}
	}
	node, err := nodefile.Read(filepath.Join(p.ConfigDir, filepath.Base(nodefile.Path)))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return o, nil, fmt.Errorf("%w: it has no %s", ErrNoController, filepath.Join(p.ConfigDir, filepath.Base(nodefile.Path)))
	case err != nil:
		return o, nil, err
	case !node.IsController():
		return o, nil, fmt.Errorf("%w: it is %s", ErrNoController, node.Name)
	}
	units := &systemd.Units{Connect: toolTime}
	o = Options{
		Root: p.Root, Node: node, Version: version, Units: units,
		View:       service.Cluster,
		Boots:      netboot.Client{Caller: service}.View,
		Interfaces: interfaces, Filter: filter,
	}
	if id, err := enrol.LoadIdentity(filepath.Join(p.ConfigDir, filepath.Base(enrol.IdentityDir))); err == nil {
		o.Identity = id
	}
	closed = units.Close
	look := health.Options{Root: p.Root, Node: node}
	trust := clock.NewTrust(node)
	look.Clock = func(ctx context.Context) string {
		switch _, trusted, err := trust.Trusted(ctx); {
		case err != nil:
			return "it cannot be found out whether the clock is right: " + err.Error()
		case !trusted:
			return "no time server has set the controller's clock since it booted"
		}
		return ""
	}
	if node.Docker {
		engine, err := swarm.Open(p.DockerHost)
		if err != nil {
			return o, nil, err
		}
		o.Engine = engine
		closed = func() { units.Close(); engine.Close() }
		look.Engine = func(ctx context.Context) (string, error) {
			info, err := engine.Info(ctx)
			return info.Engine, err
		}
		look.Certificate = func() (before, after time.Time, err error) {
			_, _, _, before, after, err = swarm.CertificateOf(p.DockerRoot)
			return before, after, err
		}
	}
	o.Health = func(ctx context.Context) *enrol.Health {
		c := health.New(look)
		defer c.Close()
		return c.Collect(ctx)
	}
	return o, closed, nil
}

// interfaces are this machine's.
func interfaces() ([]Interface, error) {
	list, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	all := []Interface{}
	for _, i := range list {
		addresses, err := i.Addrs()
		if err != nil {
			continue // it has just gone
		}
		one := Interface{Name: i.Name}
		for _, a := range addresses {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				one.Prefixes = append(one.Prefixes, p)
			}
		}
		all = append(all, one)
	}
	return all, nil
}

// filter lists the packet filter's rules, as Docker makes them.
func filter(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, toolTime)
	defer cancel()
	out, err := exec.CommandContext(ctx, "iptables", "-w", "-S").Output()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return "", fmt.Errorf("iptables -S: %w: %s", err, strings.TrimSpace(string(exit.Stderr)))
	case err != nil:
		return "", err
	}
	return string(out), nil
}
