package workload

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"

	dockerswarm "github.com/docker/docker/api/types/swarm"

	"hatchery/internal/declared"
)

// Labels of what is made.
const (
	LabelOurs   = "hatchery.workloads" // "1" on everything
	LabelName   = "hatchery.name"      // of secrets and configs: what stacks call them
	LabelDigest = "hatchery.digest"    // of services: what was asked for
)

// A thing is a secret or a config that is declared, by itself or in a stack.
type thing struct {
	kind    string // KindSecret, KindConfig
	name    string
	labels  map[string]string
	driver  *dockerswarm.Driver // of a secret that somebody else keeps
	pattern *dockerswarm.Driver // templating
	content []byte              // of a config that stands in what is declared
	pushed  bool
}

// key is the thing's in the record.
func (t thing) key() string { return t.kind + " " + t.name }

// things are all that are declared.
func things(w *declared.Workloads) (all []thing) {
	for _, s := range w.Secrets {
		all = append(all, thing{kind: KindSecret, name: s.Name, pushed: s.Pushed})
	}
	for _, c := range w.Configs {
		all = append(all, thing{kind: KindConfig, name: c.Name, pushed: c.Pushed, content: c.Content})
	}
	for _, s := range w.Stacks {
		for _, x := range s.Secrets {
			all = append(all, thing{kind: KindSecret, name: x.Spec.Name, labels: x.Spec.Labels, driver: x.Spec.Driver, pattern: x.Spec.Templating})
		}
		for _, x := range s.Configs {
			all = append(all, thing{kind: KindConfig, name: x.Spec.Name, labels: x.Spec.Labels, content: x.Spec.Data, pattern: x.Spec.Templating})
		}
	}
	return all
}

// version is the name that a thing has in the swarm.
func (t thing) version(key, content []byte) string {
	about, err := json.Marshal([]any{t.kind, t.name, t.labels, t.driver, t.pattern})
	if err != nil {
		panic(err) // names and words
	}
	mac := hmac.New(sha256.New, key)
	mac.Write(about)
	mac.Write([]byte{0})
	mac.Write(content)
	return t.name + "-" + hex.EncodeToString(mac.Sum(nil))[:12]
}

// annotations are the name and the labels that it is made with.
func (t thing) annotations(name string) dockerswarm.Annotations {
	labels := maps.Clone(t.labels)
	if labels == nil {
		labels = map[string]string{}
	}
	// Whatever a stack file says: by these it is found again.
	labels[LabelOurs], labels[LabelName] = "1", t.name
	return dockerswarm.Annotations{Name: name, Labels: labels}
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// specDigest is over all of a service but its own label.
func specDigest(spec dockerswarm.ServiceSpec) string {
	spec.Labels = maps.Clone(spec.Labels)
	delete(spec.Labels, LabelDigest)
	data, err := json.Marshal(spec)
	if err != nil {
		panic(err) // it came as JSON
	}
	return digestOf(data)
}
