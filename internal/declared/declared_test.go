package declared_test

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"hatchery/internal/declared"
	"hatchery/internal/stack"
)

// web is a stack with a secret and a config of its own.
func web(t testing.TB) *stack.Stack {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"token": "very secret", "site.conf": "a site",
		"web.yml": "services: {a: {image: \"x:1\", secrets: [token], configs: [site], networks: [inner]}}\n" +
			"secrets: {token: {file: ./token}}\nconfigs: {site: {file: ./site.conf}}\nnetworks: {inner: {}}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, err := stack.Load(t.Context(), filepath.Join(dir, "web.yml"), stack.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func whole(t testing.TB) (*declared.Workloads, map[string][]byte) {
	w := declared.New(declared.WaitForAll, declared.GuardFix)
	w.Networks = []declared.Network{{Name: "proxy", Attachable: true, Subnet: netip.MustParsePrefix("10.182.0.0/24"), Labels: map[string]string{"a": "b"}}}
	w.Secrets = []declared.Secret{{Name: "cf_token", Pushed: true}}
	w.Configs = []declared.Config{{Name: "site", Content: []byte("x")}, {Name: "later", Pushed: true}}
	return w, w.Add(web(t))
}

func TestBothWays(t *testing.T) {
	w, secrets := whole(t)
	if string(secrets["web_token"]) != "very secret" || len(secrets) != 1 {
		t.Errorf("the stack's secrets are %q", secrets)
	}
	data, err := w.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"very secret", "dmVyeSBzZWNyZXQ", os.TempDir()} {
		if strings.Contains(string(data), bad) {
			t.Errorf("%q stands in it", bad)
		}
	}
	path := filepath.Join(t.TempDir(), "workloads.json")
	if _, err := declared.Read(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := declared.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(w, again, cmpopts.EquateEmpty(), cmpopts.IgnoreUnexported(stack.Service{}), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("read again it is another (-written +read):\n%s", diff)
	}
	if w.Digest() == "" || w.Digest() != again.Digest() {
		t.Errorf("its digests are %q and %q", w.Digest(), again.Digest())
	}
	if diff := cmp.Diff(map[string]bool{"cf_token": true, "web_token": false}, again.SecretNames()); diff != "" {
		t.Errorf("its secrets: %s", diff)
	}
	again.Configs[0].Content = []byte("y")
	if again.Digest() == w.Digest() {
		t.Error("another config has the same digest")
	}
}

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		summary, fault string
		change         func(w *declared.Workloads)
	}{
		{"whole", "", func(*declared.Workloads) {}},
		{"another format", "format 7", func(w *declared.Workloads) { w.Version = 7 }},
		{"waits for no such thing", "wait_for", func(w *declared.Workloads) { w.WaitFor = "x" }},
		{"no such guard", "arch_guard", func(w *declared.Workloads) { w.ArchGuard = "" }},
		{"a secret that leads elsewhere", "no name of a secret", func(w *declared.Workloads) { w.Secrets[0].Name = "../x" }},
		{"a hidden secret", "no name of a secret", func(w *declared.Workloads) { w.Secrets[0].Name = ".x" }},
		{"a secret twice", "twice", func(w *declared.Workloads) { w.Secrets = append(w.Secrets, w.Secrets[0]) }},
		{"a stack's secret has another's name", "twice", func(w *declared.Workloads) { w.Secrets[0].Name = "web_token" }},
		{"a config that is too large", "at most", func(w *declared.Workloads) { w.Configs[0].Content = make([]byte, declared.MaxConfig+1) }},
		{"a pushed config with content", "pushed", func(w *declared.Workloads) { w.Configs[1].Content = []byte("x") }},
		{"a network that is no network", "no IPv4 network", func(w *declared.Workloads) { w.Networks[0].Subnet = netip.MustParsePrefix("10.1.2.3/8") }},
		{"no stack", "no name", func(w *declared.Workloads) { w.Stacks = append(w.Stacks, nil) }},
		{"a stack twice", "twice", func(w *declared.Workloads) { w.Stacks = append(w.Stacks, w.Stacks[0]) }},
		{"a secret's content", "no place for it", func(w *declared.Workloads) { w.Stacks[0].Secrets[0].Spec.Data = []byte("x") }},
		{"no image", "no image", func(w *declared.Workloads) { w.Stacks[0].Services[0].Spec.TaskTemplate.ContainerSpec.Image = "" }},
		{"no container", "no image", func(w *declared.Workloads) { w.Stacks[0].Services[0].Spec.TaskTemplate.ContainerSpec = nil }},
		{"a service of another stack", "does not belong", func(w *declared.Workloads) { w.Stacks[0].Services[0].Spec.Labels = nil }},
		{"no reference", "without a name", func(w *declared.Workloads) { w.Stacks[0].Services[0].Spec.TaskTemplate.ContainerSpec.Secrets[0] = nil }},
		{"too much", "too much", func(w *declared.Workloads) {
			for i := range 12 {
				w.Configs = append(w.Configs, declared.Config{Name: "c" + string(rune('a'+i)), Content: make([]byte, declared.MaxConfig)})
			}
		}},
	} {
		w, _ := whole(t)
		c.change(w)
		_, err := w.Marshal()
		switch {
		case c.fault == "" && err != nil, c.fault != "" && (err == nil || !strings.Contains(err.Error(), c.fault)):
			t.Errorf("%s: %v", c.summary, err)
		}
	}
	if _, err := declared.Parse(make([]byte, declared.MaxSize+1)); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("a file that is too large: %v", err)
	}
}

func TestSecrets(t *testing.T) {
	s := declared.Secrets(filepath.Join(t.TempDir(), "secrets"))
	if err := s.Clean(); err != nil {
		t.Error(err)
	}
	if _, err := s.Get("a"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("none: %v", err)
	}
	for name, content := range map[string][]byte{"../x": []byte("x"), "empty": nil, "large": make([]byte, declared.MaxSecret+1)} {
		if s.Put(name, content) == nil {
			t.Errorf("%s is taken", name)
		}
	}
	if err := s.Put("a", []byte("one")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]fs.FileMode{string(s): 0o700 | fs.ModeDir, filepath.Join(string(s), "a"): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
	if content, err := s.Get("a"); err != nil || string(content) != "one" {
		t.Errorf("%q, %v", content, err)
	}
	// What a power cut leaves, beside one that stays.
	for _, name := range []string{".gone-b", ".c.123.hatchery-tmp"} {
		if err := os.WriteFile(filepath.Join(string(s), name), []byte("left"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Clean(); err != nil {
		t.Error(err)
	}
	names := func() (names []string) {
		entries, err := os.ReadDir(string(s))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	if have := names(); !slices.Equal(have, []string{"a"}) {
		t.Errorf("left are %q", have)
	}
	// Its content is gone from the file itself, for who holds that.
	held, err := os.Open(filepath.Join(string(s), "a"))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	for range 2 {
		if err := s.Delete("a"); err != nil {
			t.Error(err)
		}
	}
	content := make([]byte, 3)
	if _, err := held.Read(content); err != nil || string(content) != "\x00\x00\x00" {
		t.Errorf("%q is read of it yet, %v", content, err)
	}
	if have := names(); len(have) != 0 {
		t.Errorf("left are %q", have)
	}
}

func FuzzParse(f *testing.F) {
	w, _ := whole(f)
	data, err := w.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	for _, seed := range []string{`{}`, `{"version":1,"wait_for":"all","arch_guard":"off","stacks":[null]}`, `{"networks":[{"subnet":"x"}]}`, `[`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		w, err := declared.Parse(data)
		if err != nil {
			return
		}
		again, err := w.Marshal()
		if err != nil {
			t.Skip() // it grows beyond the bound
		}
		same, err := declared.Parse(again)
		if err != nil || same.Digest() != w.Digest() {
			t.Errorf("what was read is not read again: %v", err)
		}
	})
}
