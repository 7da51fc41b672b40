package adoption

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"

	"hatchery/internal/spec"
)

// laid writes a cluster's files, which spec has to read then.
func laid(t *testing.T, c *Cluster) {
	t.Helper()
	dir := t.TempDir()
	for _, f := range c.Files() {
		place := filepath.Join(dir, filepath.FromSlash(f.Path))
		if err := errors.Join(os.MkdirAll(filepath.Dir(place), 0o700), os.WriteFile(place, f.Content, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "cluster.yaml")
	if len(c.Keys) == 0 {
		c.Keys = []string{someKey}
	}
	content, open, err := c.Write(file)
	if err == nil {
		_, err = spec.Parse(file, content)
	}
	if err != nil || len(open) > 0 {
		t.Fatalf("%v %v\n%s", open, err, content)
	}
}

// TestNonsense: what no engine answers does not end the import, and becomes a file
// that spec reads.
func TestNonsense(t *testing.T) {
	service := func(container string) string {
		return `[{"ID":"s","Spec":{"Name":"web","TaskTemplate":{"ContainerSpec":{"Image":"a:1"` + container + `}}}}]`
	}
	for _, test := range []struct{ summary, part, answer string }{
		{"nothing where a node is", "nodes", "[null]"},
		{"nothing where a service is", "services", "[null]"},
		{"nothing where a secret is", "secrets", "[null]"},
		{"nothing where a network is", "networks", "[null]"},
		{"nothing where a config is", "configs", "[null]"},
		{"nothing where a reference to a secret is", "services", service(`,"Secrets":[null]`)},
		{"nothing where a reference to a config is", "services", service(`,"Configs":[null]`)},
		{"nothing where a limit is", "services", service(`,"Ulimits":[null]`)},
		{"no list", "nodes", "null"},
		{"numbers at their ends", "services", `[{"Spec":{"Name":"web","Mode":{"Replicated":{"Replicas":18446744073709551615}},"TaskTemplate":{"ContainerSpec":{"Image":"a:1","StopGracePeriod":-9223372036854775808},"Resources":{"Limits":{"NanoCPUs":-9223372036854775808,"MemoryBytes":-1}}}}}]`},
		{"a service without a name", "services", `[{"Spec":{"TaskTemplate":{"ContainerSpec":{}}}}]`},
	} {
		t.Run(test.summary, func(t *testing.T) {
			answers := stock()
			answers[test.part] = test.answer
			c, err := Running(t.Context(), answers.shell, "a test", false)
			if err != nil {
				t.Fatal(err)
			}
			laid(t, c)
		})
	}
}

// FuzzRunning: whatever a controller answers, it is refused or becomes a file that
// spec reads, with nothing left to say.
func FuzzRunning(f *testing.F) {
	f.Add("hammond", "oneil", "big", "yes", "proxy", "token", "front", "A=b", "pi", "Europe/London")
	f.Add("a\u0085b", "p1\u0085", "a.b", "\u0080\ufeff", "x\u0085", "\x7f", "a_web", "\u2028=\u0085", "root", "\x00")
	f.Add("-oProxyCommand=x", "$(x)", "a: b", "#", "*", "&a", "!x", "{{x}}=${A}", "a b", "zoneinfo/../x")
	f.Fuzz(func(t *testing.T, host, zero, label, value, network, secret, service, env, user, zone string) {
		answers := stock()
		text := func(s string) string {
			data, err := json.Marshal(s)
			if err != nil {
				t.Fatal(err)
			}
			return string(data)
		}
		answers["hostname"], answers["user"], answers["zone"] = host, user, zone
		answers["nodes"] = fmt.Sprintf(`[{"ID":"1","Spec":{"Role":"worker","Availability":"active","Labels":{%s:%s}},"Description":{"Hostname":%s,"Platform":{"Architecture":"armv6l"}},"Status":{"State":"ready","Addr":"172.19.181.1"}}]`, text(label), text(value), text(zero))
		answers["networks"] = fmt.Sprintf(`[{"Id":"n1","Name":%s,"Scope":"swarm","Driver":"overlay","Labels":{%s:%s}}]`, text(network), text(label), text(value))
		answers["secrets"] = fmt.Sprintf(`[{"ID":"s1","Spec":{"Name":%s}}]`, text(secret))
		answers["configs"] = fmt.Sprintf(`[{"ID":"c1","Spec":{"Name":%s,"Data":"eA=="}}]`, text(secret))
		answers["services"] = fmt.Sprintf(`[{"ID":"v1","Spec":{"Name":%s,"Labels":{"com.docker.stack.namespace":%s},"TaskTemplate":{"ContainerSpec":{"Image":%s,"Env":[%s],"Labels":{%s:%s}}}}}]`,
			text(service), text(secret), text(host), text(env), text(label), text(value))
		for _, answer := range answers {
			if strings.Contains(answer, "hatchery-") {
				t.Skip() // a mark
			}
		}
		c, err := Running(t.Context(), answers.shell, "a test", false)
		if err != nil {
			t.Fatal(err)
		}
		laid(t, c)
	})
}

// TestLargeInventories: what is small as a file and huge when it is spelt out is
// refused, or read, before memory or patience end.
func TestLargeInventories(t *testing.T) {
	many := func(n int, line func(i int) string) string {
		var b strings.Builder
		for i := range n {
			b.WriteString(line(i))
		}
		return b.String()
	}
	const both = "[clusterctrl_server]\nctrl\n[clusterctrl_nodes]\n"
	for _, test := range []struct{ summary, file, inventory, err string }{
		{"ten thousand hosts with as many variables", "hosts", both + "p[1:9000]" + many(10_000, func(i int) string { return fmt.Sprintf(" v%d=1", i) }) + "\n", "more than 500000 hosts and variables"},
		{"the same hosts again and again", "hosts", both + strings.Repeat("p[1:10000]\n", 60_000), "more than 500000 hosts and variables"},
		{"an alias of many variables", "i.yml", "clusterctrl_server: {hosts: {ctrl: &v {" + many(10_000, func(i int) string { return fmt.Sprintf("v%d: 1,", i) }) + "}}}\nclusterctrl_nodes:\n  hosts:\n" + many(10_000, func(i int) string { return fmt.Sprintf("    p%d: *v\n", i) }), "more than 500000 hosts and variables"},
		{"aliases of aliases", "i.yml", "a0: &a0 {hosts: {h: null}}\n" + many(30, func(i int) string {
			return fmt.Sprintf("a%d: &a%d {children: {x%d: *a%d , y%d: *a%d }}\n", i+1, i+1, i, i, i, i)
		}), "aliases"},
		{"a chain of groups, the last one first", "hosts", both + "p1\n[g0]\np1\n" + many(20_000, func(i int) string { return fmt.Sprintf("[g%d:children]\ng%d\n", i+1, i) }), ""},
		{"as many variables of a group", "hosts", both + "p[1:250]\n[clusterctrl_nodes:vars]\n" + many(80_000, func(i int) string { return fmt.Sprintf("v%d=1\n", i) }), ""},
	} {
		t.Run(test.summary, func(t *testing.T) {
			if len(test.inventory) > maxInventory {
				t.Fatal(len(test.inventory))
			}
			inv, err := ParseInventory(test.file, []byte(test.inventory))
			if err == nil {
				_, err = inv.Cluster(Roles{})
			}
			if (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("the error is %v, want %q", err, test.err)
			}
		})
	}
}

// TestNamesThatMeet: two things of the swarm that a stack file would call alike stay
// two.
func TestNamesThatMeet(t *testing.T) {
	answers := stock()
	answers["networks"] = `[{"Id":"n1","Name":"shop_proxy","Scope":"swarm","Driver":"overlay","Labels":{"com.docker.stack.namespace":"shop"}},
		{"Id":"n2","Name":"proxy","Scope":"swarm","Driver":"overlay"}]`
	service := func(name string) string {
		return fmt.Sprintf(`{"ID":%[1]q,"Spec":{"Name":%[1]q,"Labels":{"com.docker.stack.namespace":"shop"},"TaskTemplate":{"ContainerSpec":{"Image":"a:1"},"Networks":[{"Target":"n1"},{"Target":"n2"}]},"Mode":{"Replicated":{"Replicas":1}}}}`, name)
	}
	answers["services"] = "[" + service("front") + "," + service("shop_front") + "]"
	c, err := Running(t.Context(), answers.shell, "a test", false)
	if err != nil || len(c.Stacks) != 1 {
		t.Fatal(err, c)
	}
	notes := fmt.Sprint(c.Notes())
	if !strings.Contains(notes, "the service front is left out") || strings.Contains(notes, "].Target") {
		t.Errorf("the notes are %s", notes)
	}
	content := string(c.Stacks[0].File.Content)
	for _, want := range []string{"  proxy: null\n", "  proxy-2:\n    external: true\n    name: proxy\n", "      proxy:", "      proxy-2:"} {
		if !strings.Contains(content, want) {
			t.Errorf("the file is without %q:\n%s", want, content)
		}
	}
}

// TestKeysOfTheController: only what is a key becomes one. A path would be read on the
// workstation.
func TestKeysOfTheController(t *testing.T) {
	answers := stock()
	answers["keys"] = "~/.ssh/id_ed25519\n/etc/passwd\n-----BEGIN OPENSSH PRIVATE KEY-----\ncert-authority " + someKey + "\n" + someKey + "\n"
	c, err := Running(t.Context(), answers.shell, "a test", false)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(c.Keys, "\n"); strings.Contains(got, "passwd") || strings.Contains(got, "id_ed25519\n") || strings.Contains(got, "PRIVATE") || !strings.HasSuffix(got, someKey) {
		t.Errorf("the keys are %s", got)
	}
	if notes := fmt.Sprint(c.Notes()); !strings.Contains(notes, "3 lines of the controller's authorized_keys are no keys") {
		t.Errorf("nothing is said of the others: %s", notes)
	}
}

// TestLongKeys: YAML takes no key of more than 1024 characters in one line.
func TestLongKeys(t *testing.T) {
	answers := stock()
	long := strings.Repeat("x", 1200)
	answers["services"] = fmt.Sprintf(`[{"ID":"s","Spec":{"Name":"web","Labels":{"com.docker.stack.namespace":"shop"},"TaskTemplate":{"ContainerSpec":{"Image":"a:1","Env":["%[1]s=y"],"Labels":{"%[1]s":"y"}}},"Mode":{"Replicated":{"Replicas":1}}}}]`, long)
	answers["nodes"] = strings.Replace(answers["nodes"], `"disk":"ssd"`, fmt.Sprintf(`%q:"ssd"`, long), 1)
	c, err := Running(t.Context(), answers.shell, "a test", false)
	if err != nil {
		t.Fatal(err)
	}
	laid(t, c)
	if notes := fmt.Sprint(c.Notes()); strings.Contains(notes, "ContainerSpec.Env") || strings.Contains(notes, "ContainerSpec.Labels.xxx") {
		t.Errorf("the stack file says something else: %s", notes)
	}
}

// FuzzScalars: what is written as a key or as a value is read as the same text.
func FuzzScalars(f *testing.F) {
	for _, seed := range []string{"", "a", "a\u0085b", "\u2028", "\ufeff", "\u009f", "\x7f", "\x00", "no", "1_000", "0x1f", "12:30:45", "=", "<<", "~", "- a", "a: b", "a #b", "\U0001f600\U000e0001", "2026-01-01", strings.Repeat("k", 1100)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if !utf8.ValidString(text) {
			t.Skip() // Docker answers in JSON
		}
		m, inner := &mapping{}, &mapping{}
		inner.set(text, text)
		m.set("a", inner)
		m.set("b", list{text, inner})
		var b bytes.Buffer
		m.write(&b, "", false)
		var got struct {
			A map[string]any
			B []any
		}
		if err := yaml.Unmarshal(b.Bytes(), &got); err != nil {
			t.Fatalf("%v\n%s", err, b.Bytes())
		}
		want := map[string]any{text: text}
		if !reflect.DeepEqual(got.A, want) || !reflect.DeepEqual(got.B, []any{text, want}) {
			t.Fatalf("%q became %v and %v:\n%s", text, got.A, got.B, b.Bytes())
		}
	})
}

// TestCommandsToRun: what people are told to run has foreign text as one word of it,
// as a shell says.
func TestCommandsToRun(t *testing.T) {
	const evil = "/nowhere/$(id)`id`;'x'&-k"
	inv, err := ParseInventory("hosts", []byte("[clusterctrl_server]\n-o;$(id)\n[clusterctrl_nodes]\np1 \"ansible_ssh_private_key_file="+evil+"\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := inv.Cluster(Roles{})
	if err != nil {
		t.Fatal(err)
	}
	answers := stock()
	answers["nodes"] = "[" + strings.Replace(node("1", "a;$(id)", "172.19.181.1", "armv6l", ""), "active", "drain;id", 1) + "]"
	running, err := Running(t.Context(), answers.shell, "a test", false)
	if err != nil {
		t.Fatal(err)
	}
	notes := fmt.Sprint(c.Notes(), running.Notes())
	for command, want := range map[string]string{
		"`ssh-keygen -y -f ": evil, "`hatchery import --on ": "./-o;$(id)", "`docker node update --availability ": "drain;id a;$(id)",
	} {
		_, rest, found := strings.Cut(notes, command)
		for _, end := range []string{"` prints", "` reads", "` makes"} {
			rest, _, _ = strings.Cut(rest, end)
		}
		got, err := exec.CommandContext(t.Context(), "sh", "-c", "echo "+rest).Output()
		if !found || err != nil || string(got) != want+"\n" {
			t.Errorf("%s%s: sh takes it for %q, %v", command, rest, got, err)
		}
	}
}
