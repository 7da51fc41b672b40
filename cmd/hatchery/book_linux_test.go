package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"hatchery/internal/testtool"
)

// A stead is what is run in the place of a command of the book.
type stead struct{ run, why string }

// instead are the commands that are run a little otherwise than they stand in the book.
var instead = map[string]stead{
	"hatchery flash controller p1 p2 p3 p4":           {"for t in controller p1 p2 p3 p4; do hatchery flash $t --to ~/cards/$t.img --yes || exit; done", "a card is a file here, and nobody answers"},
	"hatchery flash controller":                       {"hatchery flash controller --to ~/cards/controller.img --yes", "as above"},
	"hatchery flash p1":                               {"hatchery flash p1 --to ~/cards/p1.img --yes", "as above"},
	"hatchery flash p2":                               {"hatchery flash p2 --to ~/cards/p2.img --yes", "as above"},
	"hatchery flash p1 --to /dev/sdb --yes":           {"hatchery flash p1 --to ~/cards/p1.img --yes", "as above"},
	"hatchery flash raspios.img.xz --to /dev/mmcblk0": {"hatchery flash ~/raspios.img.xz --to ~/cards/p1.img --yes", "as above"},
	"hatchery flash": {"hatchery flash p3 --to ~/cards/p3.img --yes && hatchery workloads apply --on hammond && hatchery secrets push code_password --on hammond",
		"as above, for one target; and the controller is given what it would have from its new card"},
	"hatchery upgrade --on hammond": {"hatchery upgrade --yes --on hammond", "nobody answers"},
	"export PATH=$PWD/bin:$PATH":    {"true", "the program is in the path already"},
}

// A place is where a command is run that is not run with the book.
type place struct{ why, suite string }

// elsewhere are the commands that cannot be run here.
var elsewhere = map[string]place{
	"make build":                  {"it builds this program and the nodes'", ".ci/run"},
	"make demo":                   {"it makes the stand-in base", ".ci/run"},
	"make test":                   {"it runs this test", ".ci/run"},
	"hatchery boot controller p1": {"minutes of two emulated boards", "make e2e"},
	"hatchery boot p1":            {"as above", "make e2e"},
	"hatchery boot --all":         {"as above", "make e2e"},
	"hatchery boot controller p1 --stay --forward controller:80=8080":          {"as above", "make e2e"},
	"ssh -F out/boot/ssh_config hammond":                                       {"a guest of hatchery boot", "make e2e"},
	"ssh -F out/boot/ssh_config p1":                                            {"as above", "make e2e"},
	"curl http://hammond.local:8080":                                           {"alpine itself is not here, only its name: a task of it does not run", "make e2e runs examples/hello"},
	"testdata/base/make":                                                       {"minutes, and Debian's archive", "make base"},
	"testdata/base/make --release trixie":                                      {"as above", "make base"},
	"testdata/base/make --release all":                                         {"as above", "make base"},
	"hatchery page --on hammond --open":                                        {"it ends with ^C, and needs a browser", "page_test.go, controller/page"},
	"hatchery console p2 --watch --on hammond":                                 {"it ends with ^C", "console_linux_test.go"},
	"docker build -t 172.19.181.254:5000/hello:1 .":                            {"an image to build, and Docker Hub's base of it", "controller/imageregistry, TestEngines"},
	"docker push 172.19.181.254:5000/hello:1":                                  {"as above", "controller/imageregistry, TestEngines"},
	"docker --host ssh://pi@controller build -t 172.19.181.254:5000/hello:1 .": {"as above", "controller/imageregistry, TestEngines"},
	"docker --host ssh://pi@controller push 172.19.181.254:5000/hello:1":       {"as above", "controller/imageregistry, TestEngines"},
	"docker save 172.19.181.254:5000/hello:1 | ssh pi@controller docker load":  {"as above", "controller/imageregistry, TestEngines"},
	"ssh pi@controller docker push 172.19.181.254:5000/hello:1":                {"as above", "controller/imageregistry, TestEngines"},
	"hatchery console p2 --take --on hammond":                                  {"it takes a terminal", "console_linux_test.go"},
}

// meanwhile is what happens, every second, while a command runs.
var meanwhile = map[string]func(h *hammond){
	// Somebody changes the card.
	"hatchery rebuild p2 --wait --on hammond": func(h *hammond) { h.works.reboots(2) },
}

// ends are the exit codes of commands that do not end with 0.
var ends = map[string]int{
	"hatchery check -f wrong.yaml": exitUsage,
}

// TestBook runs every command of README.md and docs/ in reading order, as a reader does
// who follows the book: in the folder that the first quick start made, with the real
// program, a base image with a Docker that is fetched by its name, and a cluster of real
// engines, agents and service that is switched on when the book says so.
func TestBook(t *testing.T) {
	if testing.Short() {
		t.Skip("a cluster of real engines")
	}
	testtool.NeedRoot(t)
	for _, tool := range []string{"bash", "dockerd", "docker", "nsenter", "xz"} {
		testtool.Need(t, tool)
	}
	r := newReader(t)
	used := map[string]bool{}
	for _, c := range book(t) {
		if len(c.commands) == 0 {
			continue
		}
		r.opens(t, c)
		for _, command := range c.commands {
			key := command.key()
			used[key] = true
			where := fmt.Sprintf("%s:%d: $ %s", c.path, command.line, key)
			if _, not := elsewhere[key]; not {
				continue
			}
			begun := time.Now()
			text := command.text
			if s, other := instead[key]; other {
				text = s.run
			}
			if r.hammond.works == nil && strings.Contains(text, "hammond") && strings.HasPrefix(strings.TrimPrefix(text, "ssh"), "hatchery ") && strings.Contains(text, "--on hammond") {
				r.hammond.switchOn(t, r.hatchery, filepath.Join(r.folder, "out"))
			}
			ended := func() {}
			if happens := meanwhile[key]; happens != nil {
				ended = everySecond(func() { happens(r.hammond) })
			}
			code, said := r.run(t, text)
			ended()
			if code != ends[key] {
				t.Errorf("%s\nended with %d, want %d, and said\n%s", where, code, ends[key], said)
			}
			t.Logf("%4.1f s  %s", time.Since(begun).Seconds(), where)
		}
	}
	for key := range instead {
		if !used[key] {
			t.Errorf("instead has %q, which no chapter has", key)
		}
	}
	for key := range elsewhere {
		if !used[key] {
			t.Errorf("elsewhere has %q, which no chapter has", key)
		}
	}
	for key := range ends {
		if !used[key] {
			t.Errorf("ends has %q, which no chapter has", key)
		}
	}
	for key := range meanwhile {
		if !used[key] {
			t.Errorf("meanwhile has %q, which no chapter has", key)
		}
	}
}

// everySecond has something happen until stop is called.
func everySecond(f func()) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var at sync.WaitGroup
	at.Go(func() {
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				f()
			}
		}
	})
	return func() { cancel(); at.Wait() }
}

// A reader follows the book.
type reader struct {
	home    string
	folder  string // the cluster's, of the first quick start
	env     []string
	world   *internet
	hammond *hammond
	shell   *shell
}

func newReader(t *testing.T) *reader {
	t.Helper()
	r := &reader{home: t.TempDir(), world: newInternet(t), hammond: newHammond(t)}
	r.folder = filepath.Join(r.home, "quick-start-cards", "homelab")
	for _, dir := range []string{"bin", ".ssh", "cards", "there"} {
		if err := os.MkdirAll(filepath.Join(r.home, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	write := func(name, content string, perm os.FileMode) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(r.home, name), []byte(content), perm); err != nil {
			t.Fatal(err)
		}
	}
	write(".ssh/id_ed25519.pub", testKey, 0o644)
	for _, target := range allTargets {
		write("cards/"+target+".img", "", 0o600)
		if err := os.Truncate(filepath.Join(r.home, "cards", target+".img"), 1<<30); err != nil {
			t.Fatal(err)
		}
	}
	packed, err := os.ReadFile(r.world.packed)
	if err != nil {
		t.Fatal(err)
	}
	write("raspios.img.xz", string(packed), 0o644)
	// Under that name this test's own binary is the program (TestMain). It gives images
	// small programs for the nodes: those are started from elsewhere here.
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(program, filepath.Join(r.home, "bin", "hatchery")); err != nil {
		t.Fatal(err)
	}
	program = filepath.Join(r.home, "bin", "hatchery")
	// ssh to the controller is a shell that finds its programs: hatchery with the
	// service's socket and store, docker with its engine. sudo is not needed.
	write("bin/ssh", `#!/bin/sh
while [ $# -gt 0 ]; do
	case $1 in
	-F) [ -f "$2" ] || { echo "no $2" >&2; exit 255; }; shift 2 ;;
	-t) shift ;;
	hammond) shift; break ;;
	*) echo "ssh: no host $1" >&2; exit 255 ;;
	esac
done
[ "$1" != -- ] || shift
export PATH="$HOME/there:$PATH"
exec sh -c "$*"
`, 0o755)
	write("there/sudo", "#!/bin/sh\n[ \"$1\" != -n ] || shift\nexec \"$@\"\n", 0o755)
	write("there/docker", fmt.Sprintf("#!/bin/sh\nexec %s --host %s \"$@\"\n", testtool.Need(t, "docker"), r.hammond.Controller.EngineHost()), 0o755)
	write("there/hatchery", fmt.Sprintf(`#!/bin/sh
case "$1 $2" in
"netboot receive" | "netboot space" | "netboot collect" | "netboot import") exec %[1]s "$@" --store %[2]s ;;
esac
exec %[1]s "$@" --socket "$(cat $HOME/socket)"
`, program, filepath.Join(r.hammond.Controller.State(), "netboot")), 0o755)
	r.env = []string{
		"HOME=" + r.home, "XDG_CACHE_HOME=" + filepath.Join(r.home, "cache"), "SOURCE_DATE_EPOCH=1763769600", "USER=reader", "LANG=C.UTF-8",
		"PATH=" + filepath.Join(r.home, "bin") + ":" + os.Getenv("PATH"), "NEW=another token", payloadVariable + "=" + smallPayload(t), "HTTPS_PROXY=" + r.world.proxy, "SSL_CERT_FILE=" + r.world.ca,
	}
	return r
}

// hatchery runs the program beside the book.
func (r *reader) hatchery(args ...string) (string, error) {
	cmd := exec.Command(filepath.Join(r.home, "bin", "hatchery"), args...)
	cmd.Dir, cmd.Env = r.home, r.env
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// opens opens a chapter: a quick start in an empty folder, README.md nowhere, and all
// others where the first quick start ended.
func (r *reader) opens(t *testing.T, c *chapter) {
	t.Helper()
	dir := r.folder
	name := strings.TrimSuffix(filepath.Base(c.path), ".md")
	if strings.HasPrefix(name, "quick-start") || name == "README" {
		dir = filepath.Join(r.home, name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	r.shell.close()
	r.shell = newShell(t, dir, r.env)
	if before := bookmarks[c.path]; before != nil {
		before(t, r, c)
	}
}

// bookmarks are what a chapter finds in the folder, which the reader has put there.
var bookmarks = map[string]func(t *testing.T, r *reader, c *chapter){
	// The chapter's own cluster file and the examples that it names, on the base that is
	// here: there is no other for the controller.
	"docs/workloads.md": func(t *testing.T, r *reader, c *chapter) {
		t.Helper()
		_, file, _ := strings.Cut(c.text, "```yaml\n")
		file, _, found := strings.Cut(file, "```")
		if !found {
			t.Fatalf("%s has no cluster file", c.path)
		}
		file = strings.Replace(file, ", model: 4, base: raspios_lite_arm64", "", 1)
		for name, content := range map[string]string{"cluster.yaml": file, "cf_token": "a token", "secrets/password": "a password"} {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(r.folder, name)), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(r.folder, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for from, to := range map[string]string{"traefik/traefik.yml": "traefik.yml", "traefik/example.env": "workloads.env", "code-server/code-server.yml": "code-server.yml"} {
			content, err := os.ReadFile(filepath.Join(checkout, "examples", "workloads", from))
			if err == nil {
				err = os.WriteFile(filepath.Join(r.folder, to), content, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	},
}

func (r *reader) run(t *testing.T, text string) (code int, said string) {
	t.Helper()
	if r.hammond.socket != "" {
		if err := os.WriteFile(filepath.Join(r.home, "socket"), []byte(r.hammond.socket), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return r.shell.run(t, text)
}

// A shell is the reader's, for a chapter: what a command sets, the next one has.
type shell struct {
	cmd    *exec.Cmd
	in     *os.File
	ended  *bufio.Reader
	output string // where commands write to
}

func newShell(t *testing.T, dir string, env []string) *shell {
	t.Helper()
	fromHere, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	ended, fromThere, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	s := &shell{cmd: exec.Command("bash", "--norc"), in: in, ended: bufio.NewReader(ended), output: filepath.Join(t.TempDir(), "said")}
	s.cmd.Dir, s.cmd.Env, s.cmd.Stdin, s.cmd.ExtraFiles = dir, env, fromHere, []*os.File{fromThere}
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	fromHere.Close()
	fromThere.Close()
	t.Cleanup(s.close)
	return s
}

func (s *shell) close() {
	if s == nil || s.cmd.ProcessState != nil {
		return
	}
	_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL)
	_ = s.cmd.Wait()
	s.in.Close()
}

// longest is how long a command of the book may take on a machine that does much else.
const longest = 3 * time.Minute

func (s *shell) run(t *testing.T, text string) (code int, said string) {
	t.Helper()
	give := fmt.Sprintf("{\n%s\n} </dev/null >%s 2>&1 3>&-; echo $? >&3\n", text, s.output)
	if _, err := s.in.WriteString(give); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(longest, func() { _ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL) })
	defer late.Stop()
	answer, err := s.ended.ReadString('\n')
	output, _ := os.ReadFile(s.output)
	if err != nil {
		t.Fatalf("%s\nended the shell, or took longer than %s, and said\n%s", text, longest, output)
	}
	if _, err := fmt.Sscan(answer, &code); err != nil {
		t.Fatal(err)
	}
	return code, string(bytes.TrimSpace(output))
}
