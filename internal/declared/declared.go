package declared

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/distribution/reference"

	"hatchery/internal/stack"
)

// MaxSize is the most that is read of what is declared, in bytes.
const MaxSize = 8 << 20

// The most that a swarm takes (swarmkit, api/validation), in bytes.
const (
	MaxSecret = 500 * 1024
	MaxConfig = 1000 * 1024
)

// version is the format's; another one is not read.
const version = 1

// maxEach bounds how many there are of each.
const maxEach = 500

// What stacks wait for, and what becomes of services that an image does not fit, as
// cluster.yaml says it.
const (
	WaitForNodes = "nodes"
	WaitForAll   = "all"

	GuardError = "error"
	GuardFix   = "fix"
	GuardOff   = "off"
)

// Workloads are what is declared.
type Workloads struct {
	Version   int       `json:"version"`
	WaitFor   string    `json:"wait_for"`   // WaitForNodes or WaitForAll
	ArchGuard string    `json:"arch_guard"` // GuardError, GuardFix or GuardOff
	Networks  []Network `json:"networks,omitempty"`
	Secrets   []Secret  `json:"secrets,omitempty"`
	Configs   []Config  `json:"configs,omitempty"`
	// Stacks are in the order in which they are applied. Their own secrets have no
	// content: see Add.
	Stacks []*stack.Stack `json:"stacks,omitempty"`
	// CPUAllow are programs that the architecture guard lets pass.
	CPUAllow []Allowance `json:"cpu_allow,omitempty"`
}

// An Allowance is a program that may be in an image, whatever processor it is for.
type Allowance struct {
	Image string `json:"image,omitempty"` // as a service names it, in full; "": any
	Path  string `json:"path"`            // a * at its end stands for whatever follows
}

// Allows says whether the guard lets a program of an image pass, which a service names.
func (w *Workloads) Allows(image, path string) bool {
	image = InFull(image)
	return slices.ContainsFunc(w.CPUAllow, func(a Allowance) bool {
		prefix, open := strings.CutSuffix(a.Path, "*")
		return (a.Image == "" || a.Image == image) && (a.Path == path || open && strings.HasPrefix(path, prefix))
	})
}

// InFull is an image's name with its registry and its tag.
func InFull(image string) string {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return image
	}
	return reference.TagNameOnly(named).String()
}

// A Network is made once, for stacks to share.
type Network struct {
	Name       string            `json:"name"`
	Attachable bool              `json:"attachable,omitempty"`
	Internal   bool              `json:"internal,omitempty"`
	Encrypted  bool              `json:"encrypted,omitempty"`
	Subnet     netip.Prefix      `json:"subnet,omitzero"`
	Labels     map[string]string `json:"labels,omitempty"`
}

// A Secret is known by its name. Pushed says that it was in no image: somebody
// brings it.
type Secret struct {
	Name   string `json:"name"`
	Pushed bool   `json:"pushed,omitempty"`
}

// A Config is a config and what is in it, unless somebody brings that.
type Config struct {
	Name    string `json:"name"`
	Pushed  bool   `json:"pushed,omitempty"`
	Content []byte `json:"content,omitempty"`
}

// New is nothing yet, for what cluster.yaml says of wait_for and arch_guard.
func New(waitFor, archGuard string) *Workloads {
	return &Workloads{Version: version, WaitFor: waitFor, ArchGuard: archGuard}
}

// Add puts a stack behind the others, without the content of the secrets that it
// makes: that is given by the names that they have in the swarm, for [Secrets.Put].
func (w *Workloads) Add(s *stack.Stack) (secrets map[string][]byte) {
	added := *s
	added.File, added.Warnings = filepath.Base(s.File), nil
	added.Secrets = append([]stack.Secret(nil), s.Secrets...)
	secrets = map[string][]byte{}
	for i := range added.Secrets {
		if added.Secrets[i].Spec.Driver != nil {
			continue // somebody else keeps it
		}
		secrets[added.Secrets[i].Spec.Name] = added.Secrets[i].Spec.Data
		added.Secrets[i].Spec.Data = nil
	}
	w.Stacks = append(w.Stacks, &added)
	return secrets
}

// Empty says that there is nothing to do.
func (w *Workloads) Empty() bool {
	return w == nil || len(w.Networks)+len(w.Secrets)+len(w.Configs)+len(w.Stacks) == 0
}

// Stack is a stack by its name, nil if there is none.
func (w *Workloads) Stack(name string) *stack.Stack {
	for _, s := range w.Stacks {
		if s.Name == name {
			return s
		}
	}
	return nil
}

// SecretNames are all secrets, the stacks' own too, and whether an image has none of
// their content: nothing but a push brings it.
func (w *Workloads) SecretNames() map[string]bool {
	names := map[string]bool{}
	for _, s := range w.Secrets {
		names[s.Name] = s.Pushed
	}
	for _, s := range w.Stacks {
		for _, x := range s.Secrets {
			names[x.Spec.Name] = false
		}
	}
	return names
}

// Read reads a file. The error is fs.ErrNotExist where there is none.
func Read(path string) (*Workloads, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read what is to run: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read what is to run: %w", err)
	}
	w, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w (build the controller's image again, or say `hatchery workloads apply`)", path, err)
	}
	return w, nil
}

// Parse reads the content of a file.
func Parse(data []byte) (*Workloads, error) {
	if len(data) > MaxSize {
		return nil, tooLarge(len(data))
	}
	w := new(Workloads)
	if err := json.Unmarshal(data, w); err != nil {
		return nil, fmt.Errorf("what is to run cannot be read: %w", err)
	}
	return w, w.Check()
}

func tooLarge(size int) error {
	return fmt.Errorf("what is to run has %d bytes, more than %d: there is too much in configs and stack files", size, MaxSize)
}

// Marshal is the content of a file. Where that would not be read again, it fails.
func (w *Workloads) Marshal() ([]byte, error) {
	if err := w.Check(); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(w); err != nil {
		return nil, err
	}
	if b.Len() > MaxSize {
		return nil, tooLarge(b.Len())
	}
	return b.Bytes(), nil
}

// Digest changes with anything that is declared. It has nothing of secrets but their
// names.
func (w *Workloads) Digest() string {
	data, err := w.Marshal()
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

var (
	objectName = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9_.-]*[a-zA-Z0-9])?$`)
	stackName  = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9_-]*[a-zA-Z0-9])?$`)
)

// maxName leaves room for the version of a secret or a config: the swarm takes 64
// characters.
const maxName = 51

// Check says what is wrong with what is declared: whoever wrote it may not be this
// program.
func (w *Workloads) Check() error {
	switch {
	case w.Version != version:
		return fmt.Errorf("what is to run has format %d, and this program knows format %d: let both be of one version", w.Version, version)
	case w.WaitFor != WaitForNodes && w.WaitFor != WaitForAll:
		return fmt.Errorf("wait_for is %s or %s, not %.40q", WaitForNodes, WaitForAll, w.WaitFor)
	case w.ArchGuard != GuardError && w.ArchGuard != GuardFix && w.ArchGuard != GuardOff:
		return fmt.Errorf("arch_guard is %s, %s or %s, not %.40q", GuardError, GuardFix, GuardOff, w.ArchGuard)
	case len(w.Networks) > maxEach || len(w.Secrets) > maxEach || len(w.Configs) > maxEach || len(w.Stacks) > maxEach || len(w.CPUAllow) > 10*maxEach:
		return fmt.Errorf("there are more than %d networks, secrets, configs or stacks, or of what cpu.allow names ten times as many", maxEach)
	}
	names := map[string]bool{}
	once := func(kind, name string, longest int) error {
		switch {
		case !objectName.MatchString(name) || len(name) > longest:
			return fmt.Errorf("%.70q is no name of a %s: letters, digits, _, - and ., at most %d", name, kind, longest)
		case names[kind+" "+name]:
			return fmt.Errorf("the %s %s is declared twice", kind, name)
		}
		names[kind+" "+name] = true
		return nil
	}
	for _, n := range w.Networks {
		if err := once("network", n.Name, 63); err != nil {
			return err
		}
		if n.Subnet.IsValid() && (!n.Subnet.Addr().Is4() || n.Subnet != n.Subnet.Masked()) {
			return fmt.Errorf("network %s: %s is no IPv4 network", n.Name, n.Subnet)
		}
	}
	for _, s := range w.Secrets {
		if err := once("secret", s.Name, maxName); err != nil {
			return err
		}
	}
	for _, c := range w.Configs {
		if err := once("config", c.Name, maxName); err != nil {
			return err
		}
		if len(c.Content) > MaxConfig || c.Pushed && len(c.Content) > 0 {
			return fmt.Errorf("config %s: it has %d bytes: at most %d, and none if it is pushed", c.Name, len(c.Content), MaxConfig)
		}
	}
	for _, s := range w.Stacks {
		if s == nil || !stackName.MatchString(s.Name) {
			return errors.New("a stack has no name")
		}
		if err := once("stack", s.Name, 63); err != nil {
			return err
		}
		if err := w.stack(s, once); err != nil {
			return fmt.Errorf("stack %s: %w", s.Name, err)
		}
	}
	return nil
}

func (w *Workloads) stack(s *stack.Stack, once func(kind, name string, longest int) error) error {
	for _, n := range s.Networks {
		if err := once("network", n.Name, 63); err != nil {
			return err
		}
	}
	for _, x := range s.Secrets {
		if err := once("secret", x.Spec.Name, maxName); err != nil {
			return err
		}
		if len(x.Spec.Data) > 0 {
			return fmt.Errorf("the content of the secret %s stands in it, which is no place for it", x.Spec.Name)
		}
	}
	for _, x := range s.Configs {
		if err := once("config", x.Spec.Name, maxName); err != nil {
			return err
		}
		if len(x.Spec.Data) > MaxConfig {
			return fmt.Errorf("the config %s has %d bytes, and a swarm takes %d", x.Spec.Name, len(x.Spec.Data), MaxConfig)
		}
	}
	for _, x := range s.Services {
		if err := once("service", x.Spec.Name, 63); err != nil {
			return err
		}
		c := x.Spec.TaskTemplate.ContainerSpec
		switch {
		case c == nil || strings.TrimSpace(c.Image) == "":
			return fmt.Errorf("the service %s names no image", x.Spec.Name)
		case x.Spec.Labels[stack.LabelNamespace] != s.Name:
			return fmt.Errorf("the service %s does not belong to it", x.Spec.Name)
		}
		for _, r := range c.Secrets {
			if r == nil {
				return fmt.Errorf("the service %s has a secret without a name", x.Spec.Name)
			}
		}
		for _, r := range c.Configs {
			if r == nil {
				return fmt.Errorf("the service %s has a config without a name", x.Spec.Name)
			}
		}
	}
	return nil
}
