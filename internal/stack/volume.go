package stack

import (
	"path"
	"strconv"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/docker/docker/api/types/mount"
)

func (c *conversion) mounts(at []string, volumes []types.ServiceVolumeConfig) []mount.Mount {
	out := make([]mount.Mount, 0, len(volumes))
	for i, v := range volumes {
		if m, ok := c.mount(inService(at, "volumes", strconv.Itoa(i)), v); ok {
			out = append(out, m)
		}
	}
	return out
}

func (c *conversion) mount(at []string, v types.ServiceVolumeConfig) (mount.Mount, bool) {
	m := mount.Mount{
		Type: mount.Type(v.Type), Source: v.Source, Target: v.Target, ReadOnly: v.ReadOnly,
		Consistency: mount.Consistency(v.Consistency),
	}
	// What the file itself says: compose-go fills some of it in.
	long, _ := c.mappingAt(at...)
	for _, part := range []string{"bind", "volume", "tmpfs"} {
		if _, there := long[part]; there && part != v.Type {
			c.problem(append(at[:len(at):len(at)], part), "it is of type %s, and has no options of %s: remove one of both", v.Type, part)
			return m, false
		}
	}
	switch v.Type {
	case types.VolumeTypeVolume:
		return c.volume(at, v, m)
	case types.VolumeTypeBind:
		if v.Source == "" {
			c.problem(at, "it has no source: name the path on the node")
			return m, false
		}
		if !absolute(v.Source) {
			c.problem(at, "%s is a path of this machine, and would be looked for on the node: give files to a service with configs or secrets, or name the node's path in full", v.Source)
			return m, false
		}
		if _, there := long["bind"]; there || v.Bind != nil && v.Bind.Propagation != "" {
			m.BindOptions = &mount.BindOptions{}
			if v.Bind != nil {
				m.BindOptions.Propagation = mount.Propagation(v.Bind.Propagation)
			}
		}
		return m, true
	case types.VolumeTypeTmpfs:
		if v.Source != "" {
			c.problem(at, "a tmpfs has no source: leave it out")
			return m, false
		}
		if v.Tmpfs != nil {
			m.TmpfsOptions = &mount.TmpfsOptions{SizeBytes: int64(v.Tmpfs.Size)}
		}
		return m, true
	}
	c.problem(at, "volumes of type %q are not for this cluster: volume, bind and tmpfs are", v.Type)
	return m, false
}

func (c *conversion) volume(at []string, v types.ServiceVolumeConfig, m mount.Mount) (mount.Mount, bool) {
	if v.Source == "" { // one without a name
		return m, true
	}
	if _, ok := c.at([]string{"volumes", v.Source}); !ok {
		c.problem(at, "there is no volume %s: declare it in the top-level volumes (a path of the node begins with /)", v.Source)
		return m, false
	}
	declared := c.model.Volumes[v.Source]
	m.Source = c.scoped("volumes", v.Source, declared.Name)
	m.VolumeOptions = &mount.VolumeOptions{}
	if v.Volume != nil {
		m.VolumeOptions.NoCopy, m.VolumeOptions.Subpath = v.Volume.NoCopy, v.Volume.Subpath
	}
	if c.external[join([]string{"volumes", v.Source})] {
		return m, true
	}
	m.VolumeOptions.Labels = c.labels(declared.Labels)
	if declared.Driver != "" || declared.DriverOpts != nil {
		m.VolumeOptions.DriverConfig = &mount.Driver{Name: declared.Driver, Options: declared.DriverOpts}
	}
	return m, true
}

// absolute says whether a path is one on any system: a workstation's of Windows
// may name one of a node.
func absolute(p string) bool { return path.IsAbs(p) }
