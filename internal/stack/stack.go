package stack

import (
	"fmt"

	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/swarm"

	"hatchery/internal/stack/placement"
)

// Labels by which Docker's own tools know what belongs to a stack, and which
// image a service's file names.
const (
	LabelNamespace = "com.docker.stack.namespace"
	LabelImage     = "com.docker.stack.image"
)

// Options are what Load goes by beside the file.
type Options struct {
	// Name is the stack's; "" takes it from the file's name, without .yml.
	Name string
	// Lookup gives the variables. With none, every variable without a default
	// is an error.
	Lookup Lookup
	// Cluster is what the stack is for; nil judges neither what is external
	// nor where services can run, and one without nodes not the latter.
	Cluster *Cluster
}

// A Cluster is what there is beside a stack.
type Cluster struct {
	Nodes    []placement.Node
	Networks []string // that are there, or are made before stacks are applied, by the swarm's names
	Secrets  []string
	Configs  []string
	// Registry says that the controller has a registry, which takes port 5000.
	Registry bool
	// OthersMayExist says that these are not all: what is external and not
	// among them is let through.
	OthersMayExist bool
}

// A Stack is a stack file, as Docker's API takes it. It holds the content of the
// secrets that it makes: it is not for logs.
type Stack struct {
	Name     string
	File     string
	Warnings []Finding
	// Digest changes with anything that a deployment would change: the file
	// with its variables filled in, the configs' content. The secrets' content
	// is not in it, but its names are: changed secrets get new ones.
	Digest string

	Services []Service // by name
	Networks []Network // to be made, by name
	Secrets  []Secret  // to be made, by name
	Configs  []Config  // to be made, by name
	External External
}

// External is what has to be there before the stack is, by the swarm's names.
type External struct{ Networks, Secrets, Configs, Volumes []string }

// A Service is one of a stack's. Its references to secrets and configs have no
// IDs yet: see Resolved.
type Service struct {
	Key  string // in the file; the swarm's name is Spec.Name
	Spec swarm.ServiceSpec

	doc *document
}

// Image is the image that the file names.
func (s Service) Image() string { return s.Spec.TaskTemplate.ContainerSpec.Image }

// Constraints are the service's placement constraints, as the file has them.
func (s Service) Constraints() []string {
	if p := s.Spec.TaskTemplate.Placement; p != nil {
		return p.Constraints
	}
	return nil
}

// Finding makes a finding about the service: at the key below it that path
// names, or the nearest that the file has.
func (s Service) Finding(warning bool, message string, path ...string) Finding {
	d := document{file: "service", places: nil}
	if s.doc != nil {
		d.file, d.places = s.doc.file, s.doc.places
	}
	d.find(warning, append([]string{"services", s.Key}, path...), "%s", message)
	return d.findings[0]
}

// A Network is one that the stack makes.
type Network struct {
	Name    string
	Options network.CreateOptions // with the driver filled in
}

// A Secret is one that the stack makes; its Spec has the content.
type Secret struct {
	Key  string
	Spec swarm.SecretSpec
}

// A Config is one that the stack makes; its Spec has the content.
type Config struct {
	Key  string
	Spec swarm.ConfigSpec
}

// An Object is a secret or a config of the swarm: its ID, and the name that it
// has now, which may end in a version.
type Object struct{ ID, Name string }

// Resolved is the service's spec with the secrets and configs that it refers to,
// by the names that the stack has for them.
func (s Service) Resolved(secrets, configs map[string]Object) (swarm.ServiceSpec, error) {
	spec := s.Spec
	container := *spec.TaskTemplate.ContainerSpec
	spec.TaskTemplate.ContainerSpec = &container
	container.Secrets = make([]*swarm.SecretReference, len(s.Spec.TaskTemplate.ContainerSpec.Secrets))
	for i, r := range s.Spec.TaskTemplate.ContainerSpec.Secrets {
		o, ok := secrets[r.SecretName]
		if !ok {
			return spec, fmt.Errorf("service %s: there is no secret %s", spec.Name, r.SecretName)
		}
		reference := *r
		reference.SecretID, reference.SecretName = o.ID, o.Name
		container.Secrets[i] = &reference
	}
	container.Configs = make([]*swarm.ConfigReference, len(s.Spec.TaskTemplate.ContainerSpec.Configs))
	for i, r := range s.Spec.TaskTemplate.ContainerSpec.Configs {
		o, ok := configs[r.ConfigName]
		if !ok {
			return spec, fmt.Errorf("service %s: there is no config %s", spec.Name, r.ConfigName)
		}
		reference := *r
		reference.ConfigID, reference.ConfigName = o.ID, o.Name
		container.Configs[i] = &reference
	}
	return spec, nil
}
