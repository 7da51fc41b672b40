package swarm

import (
	"context"
	"strings"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
)

// A Use is a container that runs, or is paused, and what of its machine's it may
// write to.
type Use struct {
	Container string   // its name, or the beginning of its ID
	Volumes   []string // by their names
	Paths     []string // on the machine, of bind mounts
}

// Uses are the containers that may write to volumes or to paths of the machine.
func (e *Engine) Uses(ctx context.Context) ([]Use, error) {
	limited, cancel := context.WithTimeout(ctx, shortCall)
	defer cancel()
	list, err := e.client.ContainerList(limited, container.ListOptions{})
	if err != nil {
		return nil, failed(ctx, "listing the containers that run", err)
	}
	var uses []Use
	for _, c := range list {
		u := Use{Container: c.ID[:min(len(c.ID), 12)]}
		if len(c.Names) > 0 {
			u.Container = strings.TrimPrefix(c.Names[0], "/")
		}
		for _, m := range c.Mounts {
			switch {
			case !m.RW:
			case m.Type == mount.TypeVolume && m.Name != "":
				u.Volumes = append(u.Volumes, m.Name)
			case m.Source != "":
				u.Paths = append(u.Paths, m.Source)
			}
		}
		if len(u.Volumes)+len(u.Paths) > 0 {
			uses = append(uses, u)
		}
	}
	return uses, nil
}
