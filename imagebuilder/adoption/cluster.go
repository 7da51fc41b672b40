package adoption

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"hatchery/internal/clusterctrl"
	"hatchery/internal/spec"
)

// A Cluster is what was learnt of one. What is empty is not known, or is as
// cluster.yaml has it of itself.
type Cluster struct {
	From       string // in words, for the file's first line
	Name       string
	Domain     string
	User       string
	Keys       []string // files and lines of authorized_keys
	Controller Controller
	Slots      []Slot // by number
	Timezone   string
	Locale     string
	DNS        []string
	CertExpiry string
	Heartbeat  string // swarm.heartbeat
	Pool       string // swarm.address_pool
	Networks   []Network
	Secrets    []string // by name: their content is the swarm's alone
	Configs    []File
	Stacks     []Stack

	notes map[string][]string // by the path of the key that they are about
	asks  []Note              // all of them, in the order in which they came up
}

// Controller is the board with the HAT.
type Controller struct {
	Hostname string
	Model    string
	Network  string // cnat or cbridge
	Address  netip.Prefix
	Gateway  netip.Addr
	Base     string
}

// Slot is a Zero.
type Slot struct {
	Number   int
	Hostname string
	Model    string
	Root     string
	Base     string
	Labels   map[string]string
}

// Network is an overlay network that is no stack's.
type Network struct {
	Name                            string
	Attachable, Internal, Encrypted bool
	Subnet                          string
	Labels                          map[string]string
}

// A File is one that is written beside cluster.yaml.
type File struct {
	Name    string // of what it is the content of
	Path    string // relative to cluster.yaml, with slashes
	Content []byte
}

// A Stack is one of the swarm's, as a stack file.
type Stack struct {
	Name     string
	Services []string // by their names in the file
	File     File
	Files    []File // that it names
}

// A Note is what could not be known, or was concluded, and what to do about it.
type Note struct {
	Path    string `json:"path"` // the key of cluster.yaml that it is about
	Message string `json:"message"`
}

// note says something about a key of the file; "" is the file as a whole.
func (c *Cluster) note(path, format string, args ...any) {
	if c.notes == nil {
		c.notes = map[string][]string{}
	}
	n := Note{path, printable(fmt.Sprintf(format, args...))}
	c.notes[path] = append(c.notes[path], n.Message)
	c.asks = append(c.asks, n)
}

// Call gives the cluster a name, which is asked for no longer.
func (c *Cluster) Call(name string) {
	c.Name = name
	delete(c.notes, "name")
	c.asks = slices.DeleteFunc(c.asks, func(n Note) bool { return n.Path == "name" })
}

// Notes are all that could not be known.
func (c *Cluster) Notes() []Note { return c.asks }

// Files are all that belong beside cluster.yaml.
func (c *Cluster) Files() []File {
	files := slices.Clone(c.Configs)
	for _, s := range c.Stacks {
		files = append(append(files, s.File), s.Files...)
	}
	slices.SortStableFunc(files, func(a, b File) int { return cmp.Compare(a.Path, b.Path) })
	return slices.CompactFunc(files, func(a, b File) bool { return a.Path == b.Path })
}

// document is the file as YAML, with its comments.
func (c *Cluster) document() *mapping {
	m := &mapping{}
	part := func(e *entry) *entry { e.spaced = true; return e }
	part(m.set("name", cmp.Or(c.Name, "homelab")))
	m.some("domain", c.Domain)
	part(m.set("base", spec.DefaultImage))
	user := &mapping{}
	user.some("name", c.User)
	user.set("authorized_keys", texts(c.Keys))
	part(m.set("user", user))
	controller := &mapping{}
	controller.some("hostname", c.Controller.Hostname)
	controller.some("model", c.Controller.Model)
	controller.some("base", c.Controller.Base)
	controller.some("network", c.Controller.Network)
	if c.Controller.Address.IsValid() {
		controller.set("address", c.Controller.Address.String())
		if c.Controller.Gateway.IsValid() {
			controller.set("gateway", c.Controller.Gateway.String())
		}
	}
	part(m.set("controller", controller))
	if len(c.Slots) > 0 {
		slots := &mapping{}
		for _, s := range c.Slots {
			one := &mapping{}
			one.some("hostname", s.Hostname)
			one.some("model", s.Model)
			one.some("base", s.Base)
			one.some("root", s.Root)
			one.some("labels", pairs(s.Labels))
			slots.set(clusterctrl.SlotName(s.Number), one)
		}
		part(m.set("slots", slots))
	}
	if len(c.DNS) > 0 {
		part(m.set("dns", texts(c.DNS)))
	}
	m.some("timezone", c.Timezone)
	m.some("locale", c.Locale)
	swarm := &mapping{}
	swarm.some("cert_expiry", c.CertExpiry)
	swarm.some("heartbeat", c.Heartbeat)
	swarm.some("address_pool", c.Pool)
	if len(swarm.entries) > 0 {
		part(m.set("swarm", swarm))
	}
	c.workloads(m, part)
	for path, about := range c.notes {
		e := m.at(path)
		if e == nil {
			continue
		}
		e.about = append(e.about, about...)
	}
	return m
}

func (c *Cluster) workloads(m *mapping, part func(*entry) *entry) {
	if len(c.Stacks) > 0 {
		var files list
		for _, s := range c.Stacks {
			files = append(files, "./"+s.File.Path)
		}
		part(m.set("workloads", files))
	}
	if len(c.Networks) > 0 {
		networks := &mapping{}
		for _, n := range c.Networks {
			one := &mapping{}
			one.some("attachable", n.Attachable)
			one.some("internal", n.Internal)
			one.some("encrypted", n.Encrypted)
			one.some("subnet", n.Subnet)
			one.some("labels", pairs(n.Labels))
			networks.set(n.Name, one)
		}
		part(m.set("networks", networks))
	}
	if len(c.Secrets) > 0 {
		secrets := &mapping{}
		for _, s := range c.Secrets {
			secrets.set(s, "pushed")
		}
		part(m.set("secrets", secrets))
	}
	if len(c.Configs) > 0 {
		configs := &mapping{}
		for _, f := range c.Configs {
			configs.set(f.Name, "./"+f.Path)
		}
		part(m.set("configs", configs))
	}
}

// maxRefused is how many values are commented out at most before the file is
// given up.
const maxRefused = 500

// Write gives the content of cluster.yaml, for a file of that name. Values that it
// does not take are commented out with the reason, which is noted. What then
// still stands in the way of a build is for whoever has the file to fill in.
func (c *Cluster) Write(file string) ([]byte, []spec.Problem, error) {
	m := c.document()
	for range maxRefused {
		content := c.content(m)
		_, err := spec.Parse(file, content)
		var mistakes *spec.Errors
		switch {
		case err == nil:
			return content, nil, nil
		case !errors.As(err, &mistakes):
			return nil, nil, err
		}
		refused, open := false, []spec.Problem(nil)
		for _, p := range mistakes.Problems {
			switch e, there := m.refusable(p.Path); {
			case p.Pending, c.expected(p.Message):
				open = append(open, p)
			case there && !e.off:
				message := "what was found here is not for cluster.yaml: " + p.Message
				c.asks = append(c.asks, Note{p.Path, message})
				e.about, e.off, refused = append(e.about, message), true, true
			default:
				open = append(open, p)
			}
		}
		if !refused {
			return content, open, nil
		}
	}
	return nil, nil, fmt.Errorf("more than %d values of the cluster are not for cluster.yaml: this is no ClusterHAT", maxRefused)
}

// expected says whether a problem is only that files beside cluster.yaml are not
// there yet.
func (c *Cluster) expected(message string) bool {
	return strings.Contains(message, "does not exist") && slices.ContainsFunc(c.Files(), func(f File) bool { return strings.Contains(message, f.Path) })
}

// refusable finds the entry that a problem is about, or the nearest around it. What
// a file must have is not commented out.
func (m *mapping) refusable(path string) (*entry, bool) {
	if list, _, is := strings.Cut(path, "["); is {
		path = list
	}
	for path != "" && path != "name" && path != "base" && path != "user.authorized_keys" {
		if e := m.at(path); e != nil {
			return e, true
		}
		dot := strings.LastIndexByte(path, '.')
		if dot < 0 {
			break
		}
		path = path[:dot]
	}
	return nil, false
}

func (c *Cluster) content(m *mapping) []byte {
	var b bytes.Buffer
	for _, line := range wrap("What hatchery learnt from "+c.From+". `hatchery check` says whether it is right, `hatchery build` builds it; docs/cluster-yaml.md has all that can stand here.", 98) {
		fmt.Fprintf(&b, "# %s\n", line)
	}
	// What is about no key that is there stands on top.
	for _, path := range slices.Sorted(maps.Keys(c.notes)) {
		if path != "" && m.at(path) != nil {
			continue
		}
		for _, about := range c.notes[path] {
			if path != "" {
				about = path + ": " + about
			}
			b.WriteString("#\n")
			for _, line := range wrap(about, 98) {
				fmt.Fprintf(&b, "# %s\n", line)
			}
		}
	}
	m.write(&b, "", false)
	return b.Bytes()
}
