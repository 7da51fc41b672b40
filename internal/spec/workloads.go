package spec

import (
	"cmp"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Workloads is what the controller runs once the swarm is up.
type Workloads struct {
	Stacks    []string // absolute paths of stack files that exist, in the order in which they are applied
	WaitFor   string   // WaitForNodes or WaitForAll
	EnvFile   string   // the absolute path of the file with the variables of the stack files; "" for none
	Networks  []Network
	Secrets   []Content
	Configs   []Content
	ArchGuard string // GuardError, GuardFix or GuardOff
	Registry  bool   // the controller has a registry, which all engines trust
}

// What stacks wait for: the nodes that they can run on, or all of the cluster.
const (
	WaitForNodes = "nodes"
	WaitForAll   = "all"
)

// What becomes of a service that could land on a node whose processor none of its
// image's variants fits.
const (
	GuardError = "error" // it is refused
	GuardFix   = "fix"   // it is kept off those nodes
	GuardOff   = "off"   // it is let through
)

// A Network is made once in the swarm, for stacks to share.
type Network struct {
	Name       string
	Attachable bool // containers that are no service's may join it
	Internal   bool // it does not lead outside
	Encrypted  bool
	Subnet     netip.Prefix // zero: out of swarm.address_pool
	Labels     map[string]string
}

// A Content is a secret or a config of the swarm. Exactly one of File, Environment and
// Pushed says where it comes from.
type Content struct {
	Name        string
	File        string // an absolute path
	Environment string // the name of a variable of whoever builds
	// Pushed: `hatchery secrets push` brings it; it is in no image.
	Pushed bool

	// Place says where cluster.yaml has it, for whoever finds out that the content
	// is not what it should be. It has no message.
	Place Problem
}

// maxContentName leaves room for the version that a changed one gets: the engine
// takes 64 characters.
const maxContentName = 48

// contentPushed is said in the place of a file.
const contentPushed = "pushed"

var (
	swarmName    = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9_.-]*[a-zA-Z0-9])?$`)
	variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

func (d *decoder) stacks(items []item) []string {
	var files []string
	for _, it := range items {
		path, ok := d.existingFile(it, "the file")
		if !ok {
			continue
		}
		if path = filepath.Clean(path); slices.Contains(files, path) {
			d.problem(it, "%s stands here twice", quote(it.text))
			continue
		}
		files = append(files, path)
	}
	return files
}

func (d *decoder) envFile(v item) string {
	path, _ := d.existingFile(v, "the file")
	return path
}

// workloadKeys are the keys of what the controller runs.
func (w *Workloads) keys() []key {
	return []key{
		{
			name: "workloads", syntax: "a list of files", example: "[./stacks/traefik.yml]", elsewise: "none",
			about: "Stack files, as `docker stack deploy` takes them. They are checked when an image is built; the controller applies them in this order when the nodes are Ready that they need, and again when they have changed.",
			items: func(d *decoder, v []item) { w.Stacks = d.stacks(v) },
		},
		{
			name: "wait_for", syntax: "one of", example: "all", choices: []string{WaitForNodes, WaitForAll}, initial: WaitForNodes,
			about: "When workloads are first applied: as soon as there is a Ready node for each service (`nodes`), or when every node of the cluster is Ready (`all`).",
			text:  func(_ *decoder, v item) { w.WaitFor = v.text },
		},
		{
			name: "env_file", syntax: "a file", example: "./workloads.env", elsewise: "none",
			about: "What `${VAR}` stands for in the stack files: lines of `NAME=value`. A variable that is neither there nor has a default in the stack file is an error. What is filled in is in the controller's image, for its root alone to read.",
			text:  func(d *decoder, v item) { w.EnvFile = d.envFile(v) },
		},
		{
			name: "networks", elsewise: "none", placeholder: "NETWORK", sampleName: "web",
			about:  "Overlay networks that are made once, for stacks to share: there they are `external: true`.",
			entry:  func(d *decoder, name item) (key, bool) { return d.network(name, w) },
			sample: func() key { return key{keys: new(Network).keys()} },
		},
		{
			name: "secrets", elsewise: "none", placeholder: "SECRET", sampleName: "cf_token",
			about:  "Secrets of the swarm, which stacks use as `external: true`. One from a file or a variable lies in the controller's image until the controller has handed it to the swarm, and is deleted then: whoever holds the card before that holds the secret. One that is `pushed` is in no image.",
			entry:  func(d *decoder, name item) (key, bool) { return d.content(name, &w.Secrets) },
			sample: func() key { return contentSample("./secrets/cf_token") },
		},
		{
			name: "configs", elsewise: "none", placeholder: "CONFIG", sampleName: "site",
			about:  "Configs of the swarm, which stacks use as `external: true`. They come as secrets do.",
			entry:  func(d *decoder, name item) (key, bool) { return d.content(name, &w.Configs) },
			sample: func() key { return contentSample("./site.conf") },
		},
		{
			name: "arch_guard", syntax: "one of", example: "fix", choices: []string{GuardError, GuardFix, GuardOff}, initial: GuardError,
			about: "What becomes of a service that could land on a node whose processor its image has nothing for, an ARMv6 Zero above all: it is refused with the remedy (`error`), kept off those nodes (`fix`), or let through (`off`).",
			text:  func(_ *decoder, v item) { w.ArchGuard = v.text },
		},
		{
			name: "registry", syntax: "true or false", example: "true", elsewise: "`false`",
			about: "Whether the controller has a registry at `172.19.181.254:5000`, which all engines trust: images are pushed to it, and those of Docker Hub come through it, each layer once for all nodes.",
			flag:  func(b bool) { w.Registry = b },
		},
	}
}

func (n *Network) keys() []key {
	return []key{
		{
			name: "attachable", syntax: "true or false", example: "true", elsewise: "`false`",
			about: "Whether containers that belong to no service may join it.",
			flag:  func(b bool) { n.Attachable = b },
		},
		{
			name: "internal", syntax: "true or false", example: "true", elsewise: "`false`",
			about: "Whether it leads nowhere outside.",
			flag:  func(b bool) { n.Internal = b },
		},
		{
			name: "encrypted", syntax: "true or false", example: "true", elsewise: "`false`",
			about: "Whether what goes over it is encrypted, which costs a Zero much of its throughput.",
			flag:  func(b bool) { n.Encrypted = b },
		},
		{
			name: "subnet", syntax: "an IPv4 network", example: "10.182.0.0/24", elsewise: "one out of `swarm.address_pool`",
			about: "Its addresses. They must overlap neither with your LAN nor with the cluster's own networks.",
			text:  func(d *decoder, v item) { n.Subnet = d.subnet(v) },
		},
		labelsKey(&n.Labels, "Its labels."),
	}
}

func (d *decoder) network(name item, w *Workloads) (key, bool) {
	switch {
	case !swarmName.MatchString(name.text) || len(name.text) > 63:
		d.problem(name, "%s is no name of a network: letters, digits, _, - and ., at most 63", quote(name.text))
		return key{}, false
	case slices.Contains([]string{"bridge", "host", "none", "ingress", "docker_gwbridge", "default"}, name.text):
		d.problem(name, "%s is a network of Docker's own: choose another name", quote(name.text))
		return key{}, false
	}
	n := &Network{Name: name.text}
	return key{keys: n.keys(), begin: func() {}, end: func(*decoder, item) {
		w.Networks = append(w.Networks, *n)
		slices.SortFunc(w.Networks, func(a, b Network) int { return cmp.Compare(a.Name, b.Name) })
	}}, true
}

func (d *decoder) content(name item, all *[]Content) (key, bool) {
	if !swarmName.MatchString(name.text) || len(name.text) > maxContentName {
		d.problem(name, "%s is no name of a secret or a config here: letters, digits, _, - and ., at most %d", quote(name.text), maxContentName)
		return key{}, false
	}
	return key{text: func(d *decoder, v item) {
		c := Content{Name: name.text, Place: Problem{File: d.cluster.File, Line: v.line, Column: v.column, Path: v.path}}
		switch variable, dollar := strings.CutPrefix(v.text, "$"); {
		case v.text == contentPushed:
			c.Pushed = true
		case dollar && !variableName.MatchString(variable):
			d.problem(v, "%s is no variable: $NAME, with letters, digits and _", quote(v.text))
		case dollar:
			c.Environment = variable
		default:
			c.File, _ = d.existingFile(v, "the file")
		}
		*all = append(*all, c)
		slices.SortFunc(*all, func(a, b Content) int { return cmp.Compare(a.Name, b.Name) })
	}}, true
}

// contentSample describes an entry of secrets and configs.
func contentSample(example string) key {
	return key{
		syntax: "a file, `$VARIABLE` or `pushed`", example: example,
		about: "Where the content comes from: a file, all of it, its last line end too; an environment variable of whoever builds; or `pushed`: it is in no image, `hatchery secrets push NAME --on HOST` brings it, and what needs it waits until then.",
	}
}

// ownNetworks are the cluster's own.
var ownNetworks = []netip.Prefix{netip.MustParsePrefix("172.19.180.0/24"), netip.MustParsePrefix("172.19.181.0/24")}

func (d *decoder) subnet(v item) netip.Prefix {
	p, err := netip.ParsePrefix(v.text)
	switch {
	case err != nil || !p.Addr().Is4() || p.Bits() > 29 || p != p.Masked():
		d.problem(v, "%s is no IPv4 network such as 10.182.0.0/24", quote(v.text))
		return netip.Prefix{}
	case slices.ContainsFunc(ownNetworks, p.Overlaps):
		d.problem(v, "%s is the cluster's own (172.19.180.0/24 and 172.19.181.0/24): choose another", quote(v.text))
	case d.cluster.Controller.Address.IsValid() && p.Overlaps(d.cluster.Controller.Address.Masked()):
		d.problem(v, "%s overlaps with the controller's LAN, %s: choose another", quote(v.text), d.cluster.Controller.Address.Masked())
	}
	return p
}
