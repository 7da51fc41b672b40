package difference

import (
	"slices"
	"strings"

	"hatchery/imagebuilder/diskimage"
	"hatchery/internal/bootpart"
)

const (
	cmdlineName = "cmdline.txt"
	configName  = "config.txt"
	// mostBootFile is far beyond what the firmware reads of these files.
	mostBootFile = 1 << 20
)

// bootFiles compares cmdline.txt by words and config.txt by sections.
func (c *comparison) bootFiles() error {
	was, is, path, err := c.bootFile(cmdlineName)
	if err != nil {
		return err
	}
	if was != nil && is != nil {
		c.cmdline, err = compareCmdlines(path, was, is)
		if err != nil {
			c.problems.add("%s is not compared by words: %v", path, err)
		}
	}
	if was, is, _, err = c.bootFile(configName); err != nil {
		return err
	}
	if was != nil && is != nil {
		c.config = compareConfigs(was, is)
	}
	return nil
}

// bootFile reads a file of the boot partitions: nil where it is not in both,
// or private.
func (c *comparison) bootFile(name string) (was, is []byte, path string, err error) {
	var data [2][]byte
	for i, l := range c.lanes {
		path = strings.TrimSuffix(c.paths[i], "/") + "/" + name
		s := c.special[path][i]
		if s.node == nil || s.private || !s.node.Mode.IsRegular() || s.node.Problem != "" {
			return nil, nil, path, nil
		}
		if s.node.Size > mostBootFile {
			c.problems.add("%s: %s is too large to be looked into", l.name, path)
			return nil, nil, path, nil
		}
		var failed error
		err := l.do(func() { data[i], failed = diskimage.ReadFile(l.tree, path, mostBootFile) })
		if err != nil {
			return nil, nil, path, err
		}
		if failed != nil {
			c.problems.add("%s: %v", l.name, failed)
			return nil, nil, path, nil
		}
		if data[i] == nil {
			data[i] = []byte{}
		}
	}
	return data[0], data[1], path, nil
}

// compareCmdlines says what words differ; nil where none do.
func compareCmdlines(path string, was, is []byte) (*Cmdline, error) {
	before, err := bootpart.ParseCmdline(was)
	if err != nil {
		return nil, err
	}
	after, err := bootpart.ParseCmdline(is)
	if err != nil {
		return nil, err
	}
	d := &Cmdline{Path: Text(path)}
	removed, added := subtract(before.Words(), after.Words()), subtract(after.Words(), before.Words())
	once := func(words []string, key string) int {
		found := -1
		for i, w := range words {
			if k, _, value := strings.Cut(w, "="); value && normal(k) == key {
				if found >= 0 {
					return -1
				}
				found = i
			}
		}
		return found
	}
	for _, w := range slices.Clone(added) {
		name, _, value := strings.Cut(w, "=")
		key := normal(name)
		i, j := once(removed, key), once(added, key)
		// A key that is repeated, or that init's words have too, is told by
		// its words.
		if !value || i < 0 || j < 0 || len(before.Values(name)) != 1 || len(after.Values(name)) != 1 {
			continue
		}
		old, _ := before.Get(name)
		now, _ := after.Get(name)
		d.Changed = append(d.Changed, CmdlineKey{Key: Text(name), Was: Text(old), Is: Text(now)})
		removed, added = slices.Delete(removed, i, i+1), slices.Delete(added, j, j+1)
	}
	d.Added, d.Removed = texts(added), texts(removed)
	if len(d.Added)+len(d.Removed)+len(d.Changed) > 0 {
		return d, nil
	}
	if d.Reordered = !slices.Equal(before.Words(), after.Words()); !d.Reordered {
		return nil, nil
	}
	return d, nil
}

// normal is a parameter's name as the kernel compares it.
func normal(key string) string { return strings.ReplaceAll(key, "-", "_") }

// subtract gives the words of a that b does not have, counting repeated ones.
func subtract(a, b []string) []string {
	count := map[string]int{}
	for _, w := range b {
		count[w]++
	}
	var rest []string
	for _, w := range a {
		if count[w] > 0 {
			count[w]--
			continue
		}
		rest = append(rest, w)
	}
	return rest
}

// several is what settings stand under that more than one filter holds for at
// a time.
const several = "several filters"

// settings gives the effective lines of config.txt by section, and the
// sections in the order in which they appear.
func settings(content []byte) (lines map[string][]string, order []string) {
	config := bootpart.ParseConfig(content)
	lines = map[string][]string{}
	in := func(section string) (found []string) {
		config.Remove(section, func(line string) bool {
			found = append(found, line)
			return false
		})
		return found
	}
	names := []string{bootpart.All}
	for line := range strings.Lines(string(content)) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "[") {
			continue
		}
		name, _, ok := strings.Cut(line[1:], "]")
		if name = strings.ToLower(strings.TrimSpace(name)); ok && name != "" && !slices.Contains(names, name) && len(names) < 1000 {
			names = append(names, name)
		}
	}
	var single []string
	for _, name := range names {
		if found := in(name); len(found) > 0 {
			lines[name] = found
			order = append(order, name)
			single = append(single, found...)
		}
	}
	if rest := subtract(in(""), single); len(rest) > 0 {
		lines[several] = rest
		order = append(order, several)
	}
	return lines, order
}

// compareConfigs says what config.txt sets otherwise, by section.
func compareConfigs(was, is []byte) []Section {
	before, order := settings(was)
	after, more := settings(is)
	for _, name := range more {
		if !slices.Contains(order, name) {
			order = append(order, name)
		}
	}
	var sections []Section
	for _, name := range order {
		s := Section{
			Name:    Text(name),
			Added:   texts(subtract(after[name], before[name])),
			Removed: texts(subtract(before[name], after[name])),
		}
		if len(s.Added)+len(s.Removed) > 0 {
			sections = append(sections, s)
		}
	}
	return sections
}
