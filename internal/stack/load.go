package stack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/google/shlex"
)

// Load reads a stack file and what it names, and judges all of it. The error
// has everything that is wrong with it, as *Errors; a stack that it gives has
// nothing but warnings.
func Load(ctx context.Context, file string, o Options) (*Stack, error) {
	unread := func(err error) error {
		reason := err
		var at *fs.PathError
		if errors.As(err, &at) {
			reason = at.Err
		}
		return &Errors{Findings: []Finding{{File: file, Message: "it cannot be read: " + reason.Error()}}, cause: err}
	}
	info, err := os.Stat(file)
	switch {
	case err != nil:
		return nil, unread(err)
	case !info.Mode().IsRegular():
		return nil, unread(errors.New("it is no file: name a stack file"))
	case info.Size() > maxFile:
		return nil, unread(fmt.Errorf("it has %d bytes, more than the %d that a stack file may have: make several of it", info.Size(), maxFile))
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, unread(err)
	}
	root, err := os.OpenRoot(filepath.Dir(file))
	if err != nil {
		return nil, unread(err)
	}
	defer root.Close()
	if o.Name == "" {
		o.Name = NameOf(file)
	}
	return load(ctx, file, content, &folder{root: root}, o)
}

// NameOf is how a stack is called whose file is: hello for hello.yml, and for
// hello/compose.yml, hello/docker-compose.yml and hello/stack.yml.
func NameOf(file string) string {
	name := strings.TrimSuffix(strings.TrimSuffix(filepath.Base(file), ".yml"), ".yaml")
	switch name {
	case "compose", "docker-compose", "docker-stack", "stack":
		absolute, err := filepath.Abs(file)
		if err == nil {
			name = filepath.Base(filepath.Dir(absolute))
		}
	}
	return name
}

var stackName = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9_-]*[a-zA-Z0-9])?$`)

func load(ctx context.Context, file string, content []byte, files *folder, o Options) (*Stack, error) {
	if o.Lookup == nil {
		o.Lookup = Variables(nil)
	}
	d := parse(file, content)
	if !stackName.MatchString(o.Name) || len(o.Name) > 40 {
		d.problem(nil, "%q is no name of a stack: letters, digits, _ and -, at most 40; call the file otherwise", o.Name)
	}
	failed := func() error { return &Errors{Findings: sorted(d.findings)} }
	if d.tree == nil {
		return nil, failed()
	}
	d.interpolate(o.Lookup)
	d.version()
	d.validate()
	external := d.externals()
	hosts := map[string][]string{}
	for _, key := range d.keys("services") {
		service, ok := d.mappingAt("services", key)
		if !ok {
			continue
		}
		d.environment(key, service, files, o.Lookup)
		d.commands(key, service)
		hosts[key] = extraHosts(service)
	}
	model, err := d.model(ctx)
	for tries := 0; err != nil; tries++ {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		// Without what it refuses, the rest can be looked at too.
		if !d.refused(err) || tries == maxTries {
			return nil, failed()
		}
		model, err = d.model(ctx)
	}
	c := &conversion{document: d, model: model, name: o.Name, files: files, hosts: hosts, external: external}
	s := c.stack()
	c.check(s, o.Cluster)
	if broken(d.findings) {
		return nil, failed()
	}
	s.Name, s.File, s.Warnings = o.Name, file, sorted(d.findings)
	if s.Digest, err = digest(s); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return s, nil
}

// keys are the keys of a part of the file, in order.
func (d *document) keys(path ...string) []string {
	m, _ := d.mappingAt(path...)
	return slices.Sorted(maps.Keys(m))
}

func (d *document) mappingAt(path ...string) (map[string]any, bool) {
	v, _ := d.at(path)
	m, ok := v.(map[string]any)
	return m, ok
}

// version is what the file calls its format's. All 3.x are read as the last
// one.
func (d *document) version() {
	v, there := d.tree["version"]
	if !there {
		return
	}
	text, ok := v.(string)
	if !ok {
		return // validate tells
	}
	delete(d.tree, "version")
	major, minor, _ := strings.Cut(text, ".")
	n, err := strconv.Atoi(minor)
	if text != "" && (major != "3" || minor != "" && (err != nil || n > 13)) {
		d.problem([]string{"version"}, "`docker stack deploy` takes 3 to 3.13: leave it out")
	}
}

// externals takes the old form, external: {name: …}, for what it is, and says
// what is external.
func (d *document) externals() map[string]bool {
	external := map[string]bool{}
	for _, part := range []string{"networks", "volumes", "secrets", "configs"} {
		for _, key := range d.keys(part) {
			m, ok := d.mappingAt(part, key)
			if !ok {
				continue
			}
			switch e := m["external"].(type) {
			case map[string]any:
				if name, ok := e["name"].(string); ok {
					if _, both := m["name"]; both {
						d.problem([]string{part, key, "external"}, "name stands beside external too: keep that one, and external: true")
					}
					m["name"] = name
				}
				m["external"] = true
			case bool:
				if !e {
					delete(m, "external")
				}
			}
			if m["external"] != true {
				if part != "secrets" && part != "configs" || m["file"] != nil || m["driver"] != nil {
					continue
				}
				d.problem([]string{part, key}, "it has neither a file nor external: true: one of them says where it comes from")
				m["external"] = true // what else is wrong can be told all the same
			}
			external[join([]string{part, key})] = true
			for _, other := range slices.Sorted(maps.Keys(m)) {
				if other != "external" && other != "name" && !strings.HasPrefix(other, "x-") {
					d.problem([]string{part, key, other}, "what is external is there already: leave this out, or external")
					delete(m, other)
				}
			}
		}
	}
	return external
}

// environment puts the files of variables into a service's environment, as
// `docker stack deploy` does: a variable without a value, or with an empty one,
// is looked up.
func (d *document) environment(key string, service map[string]any, files *folder, lookup Lookup) {
	path := []string{"services", key}
	out := map[string]any{}
	put := func(path []string, s setting) {
		if !s.set || s.value == "" {
			if v, ok := lookup(s.name); ok {
				s.value, s.set = v, true
			}
		}
		if !s.set {
			d.problem(path, "%s has no value: set it in the env file, or write %s=, for an empty one", s.name, s.name)
			return
		}
		out[s.name] = s.value
	}
	if list, there := service["env_file"]; there {
		delete(service, "env_file")
		names, _ := list.([]any)
		if one, ok := list.(string); ok {
			names = []any{one}
		}
		for i, n := range names {
			at := append(path[:2:2], "env_file", strconv.Itoa(i))
			name, _ := n.(string)
			content, err := files.content(name, maxEnvFile)
			var all []setting
			if err == nil {
				all, err = settings(content)
			}
			if err != nil {
				d.problem(at, "%s: %v", name, err)
				continue
			}
			for _, s := range all {
				put(at, s)
			}
		}
	}
	at := append(path[:2:2], "environment")
	switch e := service["environment"].(type) {
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(e)) {
			s := setting{name: name}
			if v := e[name]; v != nil {
				s.value, s.set = fmt.Sprint(v), true
			} else if d.told(append(at[:3:3], name)) {
				continue
			}
			put(append(at[:3:3], name), s)
		}
	case []any:
		for i, v := range e {
			if text, ok := v.(string); ok {
				name, value, set := strings.Cut(text, "=")
				put(append(at[:3:3], strconv.Itoa(i)), setting{name, value, set})
			}
		}
	}
	delete(service, "environment")
	if len(out) > 0 {
		service["environment"] = out
	}
}

// commands splits what is written as one line in the way of docker/cli, whose
// words differ from compose-go's: a | or ; is nothing special.
func (d *document) commands(key string, service map[string]any) {
	for _, name := range []string{"command", "entrypoint"} {
		line, ok := service[name].(string)
		if !ok {
			continue
		}
		words, err := shlex.Split(line)
		if err != nil {
			d.problem([]string{"services", key, name}, "it cannot be split into words: %v: write it as a list", err)
		}
		list := make([]any, len(words))
		for i, w := range words {
			list[i] = w
		}
		service[name] = list
	}
}

// extraHosts are lines of /etc/hosts, in the file's order.
func extraHosts(service map[string]any) []string {
	var lines []string
	put := func(host, ip string) {
		if len(ip) > 2 && ip[0] == '[' && ip[len(ip)-1] == ']' {
			ip = ip[1 : len(ip)-1]
		}
		lines = append(lines, ip+" "+host)
	}
	switch hosts := service["extra_hosts"].(type) {
	case []any:
		for _, h := range hosts {
			text := fmt.Sprint(h)
			for _, separator := range []string{"=", ":"} {
				if host, ip, ok := strings.Cut(text, separator); ok {
					put(host, ip)
					break
				}
			}
		}
	case map[string]any:
		for _, host := range slices.Sorted(maps.Keys(hosts)) {
			if hosts[host] != nil {
				put(host, fmt.Sprint(hosts[host]))
			}
		}
	}
	delete(service, "extra_hosts")
	return lines
}

// copied is a value of the tree, for somebody who changes it.
func copied(value any) any {
	switch value := value.(type) {
	case map[string]any:
		out := make(map[string]any, len(value))
		for k, v := range value {
			out[k] = copied(v)
		}
		return out
	case []any:
		out := make([]any, len(value))
		for i, v := range value {
			out[i] = copied(v)
		}
		return out
	}
	return value
}

// model is what compose-go makes of the tree, which has neither variables nor
// names of other files to follow any more.
func (d *document) model(ctx context.Context) (model *types.Project, err error) {
	return loader.LoadWithContext(ctx, types.ConfigDetails{
		WorkingDir:  "/",
		ConfigFiles: []types.ConfigFile{{Filename: d.file, Config: copied(d.tree).(map[string]any)}},
		Environment: types.Mapping{},
	}, func(o *loader.Options) {
		o.SetProjectName("stack", true)
		o.SkipDefaultValues = true // docker/cli has no such ones
		o.SkipInterpolation, o.SkipNormalization, o.ResolvePaths, o.SkipConsistencyCheck = true, true, false, true
		o.SkipExtends, o.SkipInclude, o.SkipResolveEnvironment, o.SkipResolveLabels = true, true, true, true
	})
}

// maxTries is how often compose-go is asked again.
const maxTries = 16

// refused tells what compose-go does not take, and takes it out of the tree. It says
// whether all of it was found there.
func (d *document) refused(err error) bool {
	text := strings.TrimPrefix(err.Error(), "validating "+d.file+": ")
	lines := []string{text}
	if _, list, several := strings.Cut(text, "the following error(s):"); several {
		lines = strings.FieldsFunc(list, func(r rune) bool { return r == '\n' })
	}
	found := true
	for _, line := range lines {
		path, message := pathIn(line)
		d.problem(path, "%s", message)
		found = d.remove(path) && found
	}
	return found
}

// remove takes a value out of the tree, of a list all of it: the places of what
// follows would be wrong. A service or such is never taken out.
func (d *document) remove(path []string) bool {
	for ; len(path) > 2; path = path[:len(path)-1] {
		in, _ := d.mappingAt(path[:len(path)-1]...)
		if _, there := in[path[len(path)-1]]; there {
			delete(in, path[len(path)-1])
			return true
		}
	}
	return false
}

var (
	pathPattern = regexp.MustCompile(`\b(services|networks|volumes|secrets|configs)((?:\.(?:[A-Za-z0-9_-]+|\[\d+\]))+)`)
	// 'services[web].deploy.resources.limits.memory' invalid size: 'lots'
	decodePattern = regexp.MustCompile(`^'(services|networks|volumes|secrets|configs)\[([^\]]+)\]((?:\.[A-Za-z0-9_-]+|\[\d+\])*)' (.+)$`)
)

// pathIn finds the path that a line of an error names, and gives what it says of it.
func pathIn(line string) (path []string, message string) {
	words := func(text string) []string {
		return strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(".[]", r) })
	}
	if m := decodePattern.FindStringSubmatch(line); m != nil {
		return append([]string{m[1], m[2]}, words(m[3])...), m[4]
	}
	if m := pathPattern.FindStringSubmatch(line); m != nil {
		return append([]string{m[1]}, words(m[2])...), line
	}
	return nil, line
}
