package stack_test

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"hatchery/internal/stack"
	"hatchery/internal/stack/placement"
	"hatchery/internal/testtool"
)

// cluster is what the stacks of these tests are for.
func cluster() *stack.Cluster {
	return &stack.Cluster{
		Nodes: []placement.Node{
			{Name: "controller", Role: placement.Manager, Machine: "aarch64", Labels: map[string]string{"hatchery.slot": "controller", "hatchery.arch": "arm64"}},
			{Name: "p1", Role: placement.Worker, Machine: "armv6l", Labels: map[string]string{"hatchery.slot": "p1", "hatchery.arch": "armv6", "disk": "ssd"}},
		},
		Networks: []string{"proxy"}, Secrets: []string{"cf_token"}, Configs: []string{"site"}, Registry: true,
	}
}

// written puts a stack file into a folder of its own.
func written(t *testing.T, text string, others map[string]string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "stacks")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "web.yml")
	for name, content := range others {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// findings is what Load says, without the file's folder.
func findings(t *testing.T, file string, o stack.Options) []string {
	t.Helper()
	s, err := stack.Load(t.Context(), file, o)
	var all []stack.Finding
	var errs *stack.Errors
	switch {
	case errors.As(err, &errs):
		all = errs.Findings
	case err != nil:
		t.Fatal(err)
	default:
		all = s.Warnings
	}
	var lines []string
	for _, f := range all {
		f.File = filepath.Base(f.File)
		lines = append(lines, f.String())
	}
	return lines
}

// TestFindings has a file that is wrong for each kind of finding. Where docker
// stack config, which needs no engine, must refuse it too, it says so; a file
// with warnings only it must take.
func TestFindings(t *testing.T) {
	const begin = "services:\n  web:\n    image: nginx:1.27\n"
	docker := testtool.Need(t, "docker")
	if help, err := exec.Command(docker, "stack", "config", "--help").Output(); err != nil || !strings.Contains(string(help), "docker stack config") {
		docker = "" // 20.10 does not have it
	}
	const refused, taken = "refused", "taken" // by docker stack config
	for _, c := range []struct {
		summary string
		text    string
		docker  string // "" where docker is not asked, or another answer is right
		want    []string
	}{
		{"all is well", begin, taken, nil},
		{"a key that Docker Compose has", begin + "    build: .\n    privileged: true\n    tmpfs: /run\n    container_name: x\n    depends_on: [web]\n", taken, []string{
			"web.yml:4:5: warning: services.web.build: swarm mode ignores it: images are not built here: build and push it beforehand, and leave this out",
			"web.yml:5:5: warning: services.web.privileged: swarm mode ignores it: a service cannot be: take single capabilities with cap_add",
			"web.yml:6:5: warning: services.web.tmpfs: swarm mode ignores it: use volumes: [{type: tmpfs, target: …}]",
			"web.yml:7:5: warning: services.web.container_name: swarm mode ignores it: the tasks of a service get names of their own, and other services reach it by the service's: leave it out",
			"web.yml:8:5: warning: services.web.depends_on: swarm mode ignores it: services start in any order: let the program wait for what it needs, and leave this out",
		}},
		{"conditions", begin + "    depends_on: {db: {condition: service_healthy}}\n", refused, []string{
			"web.yml:4:5: services.web.depends_on: swarm mode has no conditions, and starts services in any order: let the program wait for what it needs, and leave this out",
		}},
		{"another file", begin + "    extends: {file: x.yml, service: y}\n", refused, []string{
			"web.yml:4:5: services.web.extends: `docker stack deploy` refuses it: other files are not read: write it out (`docker compose config` prints the outcome)",
		}},
		{"other files", "include: [x.yml]\n" + begin, refused, []string{
			"web.yml:1:1: include: `docker stack deploy` refuses it: other files are not read: write it out (`docker compose config` prints the outcome)",
		}},
		{"limits of old", begin + "    mem_limit: 5m\n    cpus: 1\n", refused, []string{
			"web.yml:4:5: services.web.mem_limit: `docker stack deploy` refuses it: set deploy.resources.limits.memory",
			"web.yml:5:5: services.web.cpus: `docker stack deploy` refuses it: set deploy.resources.limits.cpus",
		}},
		{"slips of the pen", begin + "    enviroment: {A: b}\n    deploy: {replica: 3}\n    frobnicate: 1\n", refused, []string{
			"web.yml:4:5: services.web.enviroment: there is no such key: is environment meant?",
			"web.yml:5:14: services.web.deploy.replica: there is no such key: is replicas meant?",
			"web.yml:6:5: services.web.frobnicate: there is no such key: leave it out (keys of your own begin with x-)",
		}},
		{"other types", begin + "    deploy: {replicas: three, labels: 3}\n    ports: [70000, {published: 1}]\n    stop_grace_period: soon\n", refused, []string{
			"web.yml:4:14: services.web.deploy.replicas: \"three\": a whole number is expected",
			"web.yml:4:31: services.web.deploy.labels: a list, or a mapping is expected here",
			"web.yml:5:13: services.web.ports[0]: no port such as 8080:80 or 8080:80/udp is (invalid containerPort: 70000)",
			"web.yml:6:5: services.web.stop_grace_period: a time such as 90s or 1m30s is expected",
		}},
		{"what the model does not take, and more", begin + "    deploy: {resources: {limits: {memory: lots}}, placement: {constraints: [nonsense]}}\n    volumes: [{type: bind}]\nsecrets: {s: {file: ./gone}}\n", refused, []string{
			"web.yml:4:35: services.web.deploy.resources.limits.memory: invalid size: 'lots'",
			"web.yml:4:77: services.web.deploy.placement.constraints[0]: \"nonsense\" is no constraint such as node.labels.disk == ssd or node.role != manager",
			"web.yml:5:15: services.web.volumes[0]: service volume services.web.volumes.[0] is missing a mount target",
			"web.yml:6:15: secrets.s.file: ./gone: there is no such file",
		}},
		{"truth where text is expected", begin + "    environment: {A: true}\n", refused, []string{
			"web.yml:4:19: services.web.environment.A: nothing, or a number, or text is expected here",
		}},
		{"too old a version", "version: '2.4'\n" + begin, refused, []string{"web.yml:1:1: version: `docker stack deploy` takes 3 to 3.13: leave it out"}},
		{"a version of old", "version: '3.7'\n" + begin, taken, nil},
		{"variables", begin + "    command: [\"$UNSET\", \"${UNSET}\", \"${UNSET:-a}\", \"${SET}\", \"$$\", \"${UNSET:?say it}\"]\n    hostname: ${UN-SET}${SET:+x}${UNSET:+y}\n    user: $1\n", "", []string{
			"web.yml:4:15: services.web.command[0]: the variable UNSET is not set: set it in the env file, or give it a default, ${UNSET:-…}",
			"web.yml:4:25: services.web.command[1]: the variable UNSET is not set: set it in the env file, or give it a default, ${UNSET:-…}",
			"web.yml:4:68: services.web.command[5]: the variable UNSET is not set: say it",
			"web.yml:6:5: services.web.user: \"$1\" is no variable; a dollar that is meant as such is written $$",
		}},
		{"what is not declared", begin + "    networks: [a]\n    secrets: [b]\n    configs: [c]\n    volumes: [dd:/d]\n", "", []string{
			"web.yml:4:16: services.web.networks[0]: there is no network a: declare it in the top-level networks",
			"web.yml:5:15: services.web.secrets[0]: there is no b in the top-level secrets: declare it there",
			"web.yml:6:15: services.web.configs[0]: there is no c in the top-level configs: declare it there",
			"web.yml:7:15: services.web.volumes[0]: there is no volume dd: declare it in the top-level volumes (a path of the node begins with /)",
		}},
		{"what cluster.yaml does not declare", begin + "    networks: [proxy, other]\n    secrets: [cf_token, x]\nnetworks:\n  proxy: {external: true}\n  other: {external: true}\nsecrets:\n  cf_token: {external: true}\n  x: {external: true, name: y}\n", taken, []string{
			"web.yml:8:3: networks.other: it is external, but cluster.yaml declares no other in networks: declare it there",
			"web.yml:11:3: secrets.x: it is external, but cluster.yaml declares no y in secrets: declare it there",
		}},
		{"external and made", begin + "volumes:\n  v: {external: true, driver: local}\n", refused, []string{
			"web.yml:5:23: volumes.v.driver: what is external is there already: leave this out, or external",
		}},
		{"paths of the workstation", begin + "    volumes: [./here:/there, /data:/data, /run/docker.sock:/run/docker.sock]\n", taken, []string{
			"web.yml:4:5: warning: services.web.volumes: /data has to be there on each node that the service may run on (controller, p1), and is another folder on each: pin the service with a constraint, or use a volume",
			"web.yml:4:15: services.web.volumes[0]: ./here is a path of this machine, and would be looked for on the node: give files to a service with configs or secrets, or name the node's path in full",
		}},
		{"a pinned service's paths", begin + "    volumes: [/data:/data]\n    deploy: {placement: {constraints: [node.role == manager]}}\n", taken, nil},
		{"files outside", begin + "    env_file: ../x.env\n    secrets: [s]\nsecrets:\n  s: {file: /etc/hostname}\n  n: {file: nowhere}\n  l: {file: link}\n", "", []string{
			"web.yml:4:5: services.web.env_file[0]: ../x.env: it is not in the stack file's folder, or below: put it there",
			"web.yml:7:7: secrets.s.file: /etc/hostname: it is not in the stack file's folder, or below: put it there",
			"web.yml:8:7: secrets.n.file: nowhere: there is no such file",
			"web.yml:9:7: secrets.l.file: link: it is not in the stack file's folder, or below: put it there",
		}},
		{"contents that the swarm's own files have not", begin + "secrets:\n  s: {environment: X}\n  none: {}\n", "", []string{
			"web.yml:5:3: secrets.s: it has neither a file nor external: true: one of them says where it comes from",
			"web.yml:5:7: secrets.s.environment: `docker stack deploy` refuses it: declare it in the secrets of cluster.yaml, which take variables, and make it external: true here",
			"web.yml:6:3: secrets.none: it has neither a file nor external: true: one of them says where it comes from",
		}},
		{"images", "services:\n  a: {image: nginx}\n  b: {image: 'a b'}\n  c: {hostname: x}\n", "", []string{
			"web.yml:2:7: warning: services.a.image: it has neither tag nor digest, so that it is :latest, which changes at any time: name a version, nginx:VERSION",
			"web.yml:3:7: services.b.image: \"a b\" is no name of an image: invalid reference format",
			"web.yml:4:3: services.c.image: a service needs an image, by its name in a registry",
		}},
		{"constraints", begin + "    deploy: {placement: {constraints: [node.role == manger, node.labels.disk != ssd, node.label.x == y, 'a > b', 'node.hostname == \"x\"']}}\n", taken, []string{
			"web.yml:4:26: services.web.deploy.placement.constraints: no node of the cluster meets them: node.role == manger holds for none of controller, p1; change them, or give a node the label",
			"web.yml:4:86: services.web.deploy.placement.constraints[2]: no node ever meets a constraint on \"node.label.x\": there are node.id, node.hostname, node.ip, node.role, node.platform.os, node.platform.arch, node.labels.LABEL, engine.labels.LABEL",
			"web.yml:4:105: services.web.deploy.placement.constraints[3]: \"a > b\" is no constraint such as node.labels.disk == ssd or node.role != manager",
			"web.yml:4:114: services.web.deploy.placement.constraints[4]: \"\\\"x\\\"\" is no value that a constraint takes: letters, digits and :-_./ are (quotes are not part of it)",
		}},
		{"ports that are taken", begin + "    ports: ['22:22', '80:80', '80:81', '127.0.0.1:90:90']\n", taken, []string{
			"web.yml:4:5: services.web.ports: port 22 of every node is the way in by ssh: publish another one",
			"web.yml:4:5: services.web.ports: port 80/tcp is published twice: remove one of both",
			"web.yml:4:5: warning: services.web.ports: swarm mode ignores the address 127.0.0.1: the port is published on all addresses of each node; leave it out",
		}},
		{"ports of the controller", begin + "    ports: ['53:53/udp', '5000:5000', '7481:80', '4789:80/tcp', {target: 80, published: 7480, mode: host}]\n", taken, []string{
			"web.yml:4:5: services.web.ports: port 5000 of the controller is the cluster's registry: publish another one",
			"web.yml:4:5: services.web.ports: port 53 of the controller is the slots' name server: publish another one",
			"web.yml:4:5: services.web.ports: port 7480 of the controller is the cluster's page: publish another one",
			"web.yml:4:5: services.web.ports: port 7481 of the controller is the cluster's page: publish another one",
		}},
		{"ports of other nodes", begin + "    ports: [{target: 80, published: 7480, mode: host}, {target: 22, published: 22, mode: host}]\n    deploy: {placement: {constraints: [node.role == worker]}}\n", taken, []string{
			"web.yml:4:5: services.web.ports: port 22 of every node is the way in by ssh: publish another one",
		}},
		{"too many ports", begin + "    ports: ['1000-65000:1000-65000']\n", "", []string{
			"web.yml:4:13: services.web.ports[0]: a range of more than 1024 ports: write a smaller one",
		}},
		{"a network of one node", begin + "networks:\n  default: {driver: bridge}\n", taken, []string{
			"web.yml:5:13: networks.default.driver: a network of driver bridge is on one node only: services need overlay, which is what they get without driver",
		}},
		{"modes", begin + "    deploy: {mode: global, replicas: 2}\n    healthcheck: {test: x, disable: true}\n    restart: sometimes\n", "", []string{
			"web.yml:4:28: services.web.deploy.replicas: a service that is global has one task on each node: leave it out",
			"web.yml:5:28: services.web.healthcheck.disable: there is a test beside it: remove one of both",
			"web.yml:6:5: services.web.restart: \"sometimes\" is none of no, always, unless-stopped, on-failure and on-failure:COUNT",
		}},
		{"no YAML", "services: [\n", refused, []string{"web.yml:2:1: no YAML: did not find expected node content"}},
		{"a key twice", begin + "    image: x\n", refused, nil},
		{"a list", "- a\n", refused, []string{"web.yml:1:1: it is no stack file: keys such as services: are expected"}},
		{"nothing", "", "", []string{"web.yml: it is empty: a stack file has services"}},
		{"no services", "networks: {}\n", "", []string{"web.yml:1:1: services: there is no service: a stack has one at least"}},
		{"itself", "services: &a\n  web: *a\n", "", nil},
	} {
		t.Run(c.summary, func(t *testing.T) {
			file := written(t, c.text, nil)
			if err := os.Symlink("/etc/hostname", filepath.Join(filepath.Dir(file), "link")); err != nil {
				t.Fatal(err)
			}
			have := findings(t, file, stack.Options{Lookup: stack.Variables(map[string]string{"SET": "s", "EMPTY": ""}), Cluster: cluster()})
			if c.want == nil && c.docker != taken {
				if len(have) == 0 {
					t.Error("nothing is found to be wrong with it")
				}
			} else if diff := cmp.Diff(c.want, have); diff != "" {
				t.Errorf("it says other things (-want +got):\n%s", diff)
			}
			if c.docker == "" || docker == "" {
				return
			}
			out, err := exec.Command(docker, "stack", "config", "-c", file).CombinedOutput()
			if (err == nil) != (c.docker == taken) {
				t.Errorf("docker stack config: %v, which is not %q: %s", err, c.docker, out)
			}
		})
	}
}

// TestNoRegistry: an image of the cluster's registry is only taken where there is one.
func TestNoRegistry(t *testing.T) {
	file := written(t, "services: {a: {image: '172.19.181.254:5000/hello:1'}}\n", nil)
	for _, there := range []bool{true, false} {
		_, err := stack.Load(t.Context(), file, stack.Options{Cluster: &stack.Cluster{Registry: there}})
		if said := err != nil && strings.Contains(err.Error(), "set `registry: true` in cluster.yaml"); said == there {
			t.Errorf("with a registry: %t, the error is %v", there, err)
		}
	}
}

func TestNotThere(t *testing.T) {
	_, err := stack.Load(t.Context(), filepath.Join(t.TempDir(), "x.yml"), stack.Options{})
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "x.yml: it cannot be read: no such file") {
		t.Errorf("the error is %v", err)
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := stack.Load(ctx, written(t, "services: {a: {image: 'b:1'}}\n", nil), stack.Options{}); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("the error is %v", err)
	}
}

func TestNameOf(t *testing.T) {
	for file, want := range map[string]string{
		"/a/hello.yml": "hello", "/a/hello.yaml": "hello", "/a/hello/compose.yml": "hello", "/a/b/docker-compose.yaml": "b", "/a/b/stack.yml": "b", "/x.y.yml": "x.y",
	} {
		if have := stack.NameOf(file); have != want {
			t.Errorf("%s is called %q, want %q", file, have, want)
		}
	}
}

// TestDigest: what a deployment would change, changes the digest, and nothing
// else does.
func TestDigest(t *testing.T) {
	const text = "services: {web: {image: 'nginx:${TAG}', configs: [c], secrets: [s]}}\nconfigs: {c: {file: c}}\nsecrets: {s: {file: s}}\n"
	digest := func(text, tag, config, secret string) string {
		s, err := stack.Load(t.Context(), written(t, text, map[string]string{"c": config, "s": secret}), stack.Options{Lookup: stack.Variables(map[string]string{"TAG": tag, "OTHER": secret})})
		if err != nil {
			t.Fatal(err)
		}
		return s.Digest
	}
	first := digest(text, "1", "config", "secret")
	for _, c := range []struct {
		summary string
		same    bool
		digest  string
	}{
		{"again", true, digest(text, "1", "config", "secret")},
		{"a comment", true, digest("# x\n"+text, "1", "config", "secret")},
		{"a secret's content", true, digest(text, "1", "config", "other")},
		{"a variable", false, digest(text, "2", "config", "secret")},
		{"a config's content", false, digest(text, "1", "other", "secret")},
		{"a key", false, digest(strings.Replace(text, "configs: [c],", "configs: [c], hostname: x,", 1), "1", "config", "secret")},
	} {
		if (c.digest == first) != c.same {
			t.Errorf("%s: the digests are %s and %s", c.summary, first, c.digest)
		}
	}
	if !strings.HasPrefix(first, "sha256:") {
		t.Errorf("a digest is %q", first)
	}
}

func TestConflicts(t *testing.T) {
	load := func(name, ports string) *stack.Stack {
		s, err := stack.Load(t.Context(), written(t, "services:\n  web:\n    image: nginx:1\n    ports: "+ports+"\n", nil), stack.Options{Name: name})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for _, c := range []struct {
		summary string
		stacks  []*stack.Stack
		want    string
	}{
		{"the same port", []*stack.Stack{load("a", "['80:80']"), load("b", "['80:90']")}, "services.web.ports: port 80/tcp is published by service web of stack a"},
		{"another protocol", []*stack.Stack{load("a", "['80:80']"), load("b", "['80:80/udp']")}, ""},
		{"any port", []*stack.Stack{load("a", "['80']"), load("b", "['80']")}, ""},
		{"of the node, and of all", []*stack.Stack{load("a", "[{target: 80, published: 80, mode: host}]"), load("b", "['80:80']")}, "port 80/tcp is published"},
		{"of nodes", []*stack.Stack{load("a", "[{target: 80, published: 80, mode: host}]"), load("b", "[{target: 80, published: 80, mode: host}]")}, ""},
		{"one name", []*stack.Stack{load("a", "[]"), load("a", "[]")}, "is called a too"},
	} {
		found := stack.Conflicts(c.stacks)
		if c.want == "" && len(found) != 0 || c.want != "" && (len(found) != 1 || !strings.Contains(found[0].String(), c.want)) {
			t.Errorf("%s: it finds %v", c.summary, found)
		}
	}
}

func TestReadVariables(t *testing.T) {
	for _, c := range []struct {
		summary, text string
		want          map[string]string
		fault         string
	}{
		{"lines", "# x\nA=1\n\n export B = 2\nC=\"a b\"\nD='$x'\nE=\nF=a=b\r\n", nil, "a name has no spaces"},
		{"all forms", "# x\nA=1\n\nC=\"a b\"\nD='$x'\nE=\nF=a=b\r\nG=\"\n", map[string]string{"A": "1", "C": "a b", "D": "$x", "E": "", "F": "a=b", "G": `"`}, ""},
		{"no value", "A\n", nil, "A has no value"},
		{"no name", "=1\n", nil, "line 1 has no name"},
		{"an odd name", "a.b=1\n", nil, "is no name of a variable"},
		{"no text", "A=\xff\n", nil, "line 1 is not UTF-8"},
	} {
		file := filepath.Join(t.TempDir(), "x.env")
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		have, err := stack.ReadVariables(file)
		switch {
		case c.fault != "" && (err == nil || !strings.Contains(err.Error(), c.fault)):
			t.Errorf("%s: the error is %v", c.summary, err)
		case c.fault == "" && (err != nil || !cmp.Equal(c.want, have)):
			t.Errorf("%s: %v, %v", c.summary, have, err)
		}
	}
}

// TestBombs: what grows is bounded before it has grown.
func TestBombs(t *testing.T) {
	laughs := "x-a: &a [l, l, l, l, l, l, l, l, l]\n"
	for i := 'b'; i < 'k'; i++ {
		laughs += "x-" + string(i) + ": &" + string(i) + " [" + strings.Repeat("*"+string(i-1)+", ", 9) + "]\n"
	}
	deep := "x-a: " + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + "\n"
	for summary, text := range map[string]string{"aliases": laughs, "depth": deep, "size": "#" + strings.Repeat("x", 2<<20)} {
		if _, err := stack.Load(t.Context(), written(t, text+"services: {a: {image: 'b:1'}}\n", nil), stack.Options{}); err == nil {
			t.Errorf("%s: it is taken", summary)
		}
	}
}

// TestKept: a stack that was written down as JSON is the same afterwards.
func TestKept(t *testing.T) {
	files, err := filepath.Glob("testdata/deploy/*.yml")
	if err != nil || len(files) == 0 {
		t.Fatal("no stack files: ", err)
	}
	for _, file := range files {
		s, err := stack.Load(t.Context(), file, stack.Options{Lookup: stack.Variables(map[string]string{"REPLICAS": "2", "TAG": "1", "EMPTY": "", "LOOKED_UP": "x"})})
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var again stack.Stack
		if err := json.Unmarshal(text, &again); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(s, &again, cmpopts.EquateEmpty(), cmpopts.IgnoreUnexported(stack.Service{})); diff != "" {
			t.Errorf("%s: (-before +after)\n%s", file, diff)
		}
		for _, service := range again.Services {
			if f := service.Finding(true, "x", "image"); f.Path != "services."+service.Key+".image" {
				t.Errorf("%s: a finding is %v", file, f)
			}
		}
	}
}

// TestResolved: references get the IDs and the versioned names, and the stack
// keeps its own.
func TestResolved(t *testing.T) {
	file := written(t, "services: {web: {image: 'a:1', secrets: [s], configs: [c]}}\nsecrets: {s: {external: true}}\nconfigs: {c: {file: c}}\n", map[string]string{"c": "c"})
	s, err := stack.Load(t.Context(), file, stack.Options{})
	if err != nil {
		t.Fatal(err)
	}
	secrets, configs := map[string]stack.Object{"s": {ID: "1", Name: "s.v2"}}, map[string]stack.Object{"web_c": {ID: "2", Name: "web_c.v3"}}
	spec, err := s.Services[0].Resolved(secrets, configs)
	if err != nil {
		t.Fatal(err)
	}
	container := spec.TaskTemplate.ContainerSpec
	if r := container.Secrets[0]; r.SecretID != "1" || r.SecretName != "s.v2" || r.File.Name != "s" {
		t.Errorf("the secret is %+v", r)
	}
	if r := container.Configs[0]; r.ConfigID != "2" || r.ConfigName != "web_c.v3" || r.File.Name != "c" {
		t.Errorf("the config is %+v", r)
	}
	if r := s.Services[0].Spec.TaskTemplate.ContainerSpec.Secrets[0]; r.SecretID != "" || r.SecretName != "s" {
		t.Errorf("the stack's own is %+v", r)
	}
	for _, c := range []struct {
		secrets, configs map[string]stack.Object
		want             string
	}{{nil, configs, "there is no secret s"}, {secrets, nil, "there is no config web_c"}} {
		if _, err := s.Services[0].Resolved(c.secrets, c.configs); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("the error is %v, want %s", err, c.want)
		}
	}
}
