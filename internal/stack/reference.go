package stack

import (
	"cmp"
	"os"
	"slices"
	"strconv"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/docker/docker/api/types/swarm"
)

// A use is how a service has a secret or a config.
type use struct {
	name, file, uid, gid string
	mode                 os.FileMode
}

func (c *conversion) reference(at []string, part string, i int, r types.FileReferenceConfig, name string) (use, bool) {
	if _, ok := c.mappingAt(part); !ok {
		c.problem(inService(at, part, strconv.Itoa(i)), "there is no %s in the top-level %s: declare it there", r.Source, part)
		return use{}, false
	}
	if _, ok := c.at([]string{part, r.Source}); !ok {
		c.problem(inService(at, part, strconv.Itoa(i)), "there is no %s in the top-level %s: declare it there", r.Source, part)
		return use{}, false
	}
	out := use{
		name: c.scoped(part, r.Source, name), file: cmp.Or(r.Target, r.Source),
		uid: cmp.Or(r.UID, "0"), gid: cmp.Or(r.GID, "0"), mode: 0o444,
	}
	if r.Mode != nil {
		out.mode = os.FileMode(*r.Mode)
	}
	return out, true
}

func (c *conversion) secretReferences(at []string, s types.ServiceConfig) []*swarm.SecretReference {
	out := []*swarm.SecretReference{}
	targets := map[string]bool{}
	for i, u := range s.Secrets {
		r, ok := c.reference(at, "secrets", i, types.FileReferenceConfig(u), c.model.Secrets[u.Source].Name)
		if !ok {
			continue
		}
		if targets[r.file] {
			c.problem(inService(at, "secrets", strconv.Itoa(i)), "another one is the file %s already: give one of them another target", r.file)
		}
		targets[r.file] = true
		out = append(out, &swarm.SecretReference{SecretName: r.name, File: &swarm.SecretReferenceFileTarget{Name: r.file, UID: r.uid, GID: r.gid, Mode: r.mode}})
	}
	slices.SortStableFunc(out, func(a, b *swarm.SecretReference) int { return cmp.Compare(a.SecretName, b.SecretName) })
	return out
}

func (c *conversion) configReferences(at []string, s types.ServiceConfig) []*swarm.ConfigReference {
	out := []*swarm.ConfigReference{}
	targets := map[string]bool{}
	for i, u := range s.Configs {
		r, ok := c.reference(at, "configs", i, types.FileReferenceConfig(u), c.model.Configs[u.Source].Name)
		if !ok {
			continue
		}
		if targets[r.file] {
			c.problem(inService(at, "configs", strconv.Itoa(i)), "another one is the file %s already: give one of them another target", r.file)
		}
		targets[r.file] = true
		out = append(out, &swarm.ConfigReference{ConfigName: r.name, File: &swarm.ConfigReferenceFileTarget{Name: r.file, UID: r.uid, GID: r.gid, Mode: r.mode}})
	}
	slices.SortStableFunc(out, func(a, b *swarm.ConfigReference) int { return cmp.Compare(a.ConfigName, b.ConfigName) })
	return out
}
