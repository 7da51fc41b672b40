package packages_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"hatchery/firstboot/packages"
	"hatchery/internal/testtool"
)

// The tests run the steps in a small root with a dpkg database of its own, by
// the machine's dpkg and shell, in a process of their own: this one's program,
// by the name of agent. systemctl and sleep are stand-ins that write down what
// they were asked, and so is Docker.

const agentName = "agent"

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == agentName {
		os.Exit(agent())
	}
	os.Exit(m.Run())
}

// agent does what the agent does with the steps: Docker is started between the
// first and the second, and what has failed is tried again.
func agent() int {
	o := packages.Options{
		Log:     slog.New(slog.NewTextHandler(os.Stdout, nil)),
		Started: []string{"docker.socket", "docker.service"},
		Tell:    func(what string) { fmt.Println("now:", what) },
	}
	if _, err := os.Stat("/cut"); err == nil {
		o = o.Around(cut)
	}
	ctx := context.Background()
	for delay := 15; ; delay *= 2 {
		left, err := packages.Look(o)
		if err != nil {
			fmt.Println("failed:", err)
			return 1
		}
		if left == (packages.Left{}) {
			return 0
		}
		failed := false
		try := func(err error) bool {
			if err != nil {
				failed = true
				fmt.Println("failed:", err)
			}
			return err == nil
		}
		if try(packages.Configure(ctx, o)) {
			if !left.Load || try(exec.Command("systemctl", "start", "docker.service").Run()) {
				try(packages.Load(ctx, o, docker{}, func(done, total int64) { fmt.Printf("loaded: %d of %d\n", done, total) }))
			}
			try(packages.Finish(ctx, o))
		}
		if failed {
			if err := exec.Command("sleep", strconv.Itoa(delay)).Run(); err != nil {
				return 1
			}
		}
	}
}

// docker takes images if it is started.
type docker struct{}

func (docker) LoadImages(_ context.Context, archive io.Reader) error {
	if _, err := os.Stat("/run/docker"); err != nil {
		return errors.New("no daemon")
	}
	images, err := io.ReadAll(archive)
	if err != nil {
		return err
	}
	note("load " + string(images))
	if _, err := os.Stat("/load-fails"); err == nil {
		return errors.New("out of luck")
	}
	return os.WriteFile("/var/lib/docker/images", images, 0o644)
}

func note(line string) {
	f, err := os.OpenFile("/log", os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err == nil {
		_, err = fmt.Fprintln(f, line)
		f.Close()
	}
	if err != nil {
		panic(err)
	}
}

// cut has the power go at its N-th call, those of the tools counted as well
// (cutter). Process 1 is what the test has started, and survives.
func cut() {
	number := func(name string) int {
		text, err := os.ReadFile(name)
		if err != nil {
			panic(err)
		}
		n, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil {
			panic(err)
		}
		return n
	}
	n := number("/cut/count") + 1
	if err := os.WriteFile("/cut/count", []byte(strconv.Itoa(n)+"\n"), 0o644); err != nil {
		panic(err)
	}
	if n == number("/cut/at") {
		_ = unix.Kill(-1, unix.SIGKILL)
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
		select {}
	}
}

// cutter stands before a tool: the power goes at its N-th call, counted before
// and after it has run.
const cutter = `#!/bin/sh
cut() {
	read -r n </cut/count
	n=$((n + 1))
	echo $n >/cut/count
	read -r at </cut/at
	if [ "$n" = "$at" ]; then
		kill -9 -1
		kill -9 $$
	fi
}
cut
%s "$@"
status=$?
cut
exit $status
`

// packageScripts are the control files of the packages that the tests unpack.
// Each says in /log what it was run as.
var packageScripts = map[string]map[string]string{
	"docker.io": {
		"control": "Depends: runc\n",
		"preinst": `echo "preinst $* in $PWD $(umask): $DPKG_MAINTSCRIPT_PACKAGE $DPKG_MAINTSCRIPT_ARCH $DPKG_MAINTSCRIPT_NAME $DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT root=${DPKG_ROOT-unset} $DPKG_ADMINDIR $DEBIAN_FRONTEND ${DPKG_RUNNING_VERSION%%.*} $LC_ALL ${LANGUAGE-none}" >>/log
if read -r line; then echo "preinst reads $line" >>/log; fi
if [ -e /preinst-fails ]; then echo "out of luck" >&2; exit 1; fi`,
		"postinst": `echo "docker.io postinst $*" >>/log
if [ -e /docker.io-fails ]; then exit 1; fi
for unit in docker.service docker.socket; do
	deb-systemd-helper unmask $unit
	deb-systemd-helper --quiet was-enabled $unit && deb-systemd-helper enable $unit
done
systemctl --system daemon-reload
if [ -e /unit-comes ]; then echo "[Service]" >/usr/lib/systemd/system/late.service; fi
if [ -e /script-comes ]; then echo "#!/bin/sh" >/etc/init.d/old; fi
mkdir -p /etc/enabled
touch /etc/enabled/docker.service /etc/enabled/docker.socket
deb-systemd-invoke start docker.service docker.socket
invoke-rc.d 'odd\x2dname' start`,
		"conffiles": "/etc/docker/daemon.json\n/etc/default/docker\n/etc/init.d/docker\n",
	},
	"runc":   {"postinst": "echo runc postinst >>/log; deb-systemd-invoke start runc.service"},
	"podman": {"postinst": "echo podman postinst >>/log; if [ -e /podman-fails ]; then exit 1; fi"},
	"man-db": {
		"postinst": `echo "man-db postinst $1" >>/log; if [ -e /man-db-fails ]; then exit 1; fi`,
		"triggers": "interest-noawait /usr/share/man\n",
	},
}

var packageFiles = map[string]map[string]string{
	"docker.io": {
		"usr/lib/systemd/system/docker.service": "[Service]\n",
		"usr/share/man/man1/docker.1":           "the manual\n",
		"etc/docker/daemon.json":                "the package's\n",
		"etc/default/docker":                    "the package's\n",
		"etc/init.d/docker":                     "#!/bin/sh\n",
	},
	"podman": {"usr/bin/podman": "no program\n"},
}

// stand-ins, below /usr/local/bin of the root.
var standIns = map[string]string{
	"systemctl": `held=
if [ -e /var/lib/hatchery/packages/pending ]; then held=" (held)"; fi
echo "systemctl $*$held" >>/log
if [ "$*" = "start docker.service" ]; then
	if [ -e /docker-fails ]; then exit 1; fi
	touch /run/docker
fi`,
	"deb-systemd-invoke": `echo "deb-systemd-invoke $*" >>/log; if [ -e /invoke-fails ]; then echo "no such unit"; exit 1; fi`,
	// As the real one, it makes links and has systemd read its units again.
	"deb-systemd-helper": `echo "deb-systemd-helper $*" >>/log
mkdir -p /etc/systemd/system/multi-user.target.wants /var/lib/systemd/deb-systemd-helper-enabled
ln -sf /usr/lib/systemd/system/$2 /etc/systemd/system/multi-user.target.wants/$2
touch /var/lib/systemd/deb-systemd-helper-enabled/$2.dsh-also
systemctl daemon-reload`,
	"invoke-rc.d": `echo "invoke-rc.d $*" >>/log`,
	// The second time, what was wrong no longer is.
	"sleep": `echo "sleep $1" >>/log
if [ -e /slept ]; then rm -f /*-fails; fi
touch /slept`,
}

// A node is a node whose packages were unpacked by the builder.
type node struct {
	t    testing.TB
	root string
}

func (n *node) path(name string) string {
	return filepath.Join(n.root, filepath.FromSlash(name))
}

func (n *node) write(name, text string, mode fs.FileMode) {
	n.t.Helper()
	path := n.path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		n.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) read(name string) string {
	n.t.Helper()
	data, err := os.ReadFile(n.path(name))
	if err != nil && !os.IsNotExist(err) {
		n.t.Fatal(err)
	}
	return string(data)
}

func (n *node) exists(name string) bool {
	_, err := os.Lstat(n.path(name))
	return err == nil
}

// in runs a shell's command line in the root, the machine's /usr below it.
func (n *node) in(command string) (string, error) {
	n.t.Helper()
	self, err := os.Executable()
	if err != nil {
		n.t.Fatal(err)
	}
	const enter = `mount --bind "$2" "$0/usr/local/bin/agent"; for dir in bin sbin share; do mount --bind "/usr/$dir" "$0/usr/$dir"; done
mount --bind /usr/lib "$0/machine"; mount --rbind /dev "$0/dev"; mount -t proc proc "$0/proc"
if [ -d /usr/lib64 ]; then mount --bind /usr/lib64 "$0/usr/lib64"; fi
chroot "$0" /usr/bin/env -i PATH=/usr/local/bin:/usr/sbin:/usr/bin /bin/sh -c "$1"`
	out, err := exec.Command(testtool.Need(n.t, "unshare"), "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child",
		"sh", "-ec", enter, n.root, command, self).CombinedOutput()
	return string(out), err
}

func (n *node) must(command string) string {
	n.t.Helper()
	out, err := n.in(command)
	if err != nil {
		n.t.Fatalf("%s: %v\n%s", command, err, out)
	}
	return out
}

// boot runs the agent as an odd systemd would: its umask and its folder are
// not to reach what it starts. Docker is started by systemd itself if it is
// enabled and not held back.
func (n *node) boot() (string, error) {
	n.t.Helper()
	testtool.Run(n.t, "rm", "-rf", n.path("run"))
	if err := os.Mkdir(n.path("run"), 0o755); err != nil {
		n.t.Fatal(err)
	}
	if n.exists("etc/enabled/docker.service") && !n.exists("var/lib/hatchery/packages/pending") && !n.exists("docker-fails") {
		n.write("run/docker", "", 0o644)
	}
	return n.in("cd /tmp; umask 077; LANGUAGE=de " + agentName + " </usr/local/bin/sleep")
}

// log is what has been done since it was asked last.
func (n *node) log() string {
	n.t.Helper()
	text := n.read("log")
	if err := os.RemoveAll(n.path("log")); err != nil {
		n.t.Fatal(err)
	}
	return text
}

// newNode makes the root and unpacks the packages.
func newNode(t testing.TB) *node {
	t.Helper()
	testtool.NeedRoot(t)
	for _, tool := range []string{"unshare", "mount", "chroot", "dpkg", "dpkg-deb"} {
		testtool.Need(t, tool)
	}
	n := &node{t, filepath.Join(t.TempDir(), "root")}
	for _, dir := range []string{"dev", "proc", "run", "tmp", "machine", "etc/enabled", "usr/bin", "usr/sbin", "usr/share", "usr/lib", "usr/local/bin",
		"var/lib/docker", "var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers"} {
		if err := os.MkdirAll(n.path(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// The overlay's.
	wrapper, err := os.ReadFile("../../overlays/docker/usr/lib/hatchery/later/later")
	if err != nil {
		t.Fatal(err)
	}
	n.write("usr/lib/hatchery/later/later", string(wrapper), 0o755)
	links := map[string]string{"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib"}
	for _, name := range []string{"deb-systemd-helper", "deb-systemd-invoke", "invoke-rc.d", "systemctl"} {
		links["usr/lib/hatchery/later/"+name] = "later"
	}
	if _, err := os.Stat("/usr/lib64"); err == nil {
		links["lib64"] = "usr/lib64"
		if err := os.Mkdir(n.path("usr/lib64"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	machine, err := os.ReadDir("/usr/lib")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range machine {
		if !n.exists("usr/lib/" + e.Name()) {
			links["usr/lib/"+e.Name()] = "/machine/" + e.Name()
		}
	}
	for name, target := range links {
		if err := os.Symlink(target, n.path(name)); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range standIns {
		n.write("usr/local/bin/"+name, "#!/bin/sh\n"+text+"\n", 0o755)
	}
	n.write("usr/local/bin/"+agentName, "", 0o755) // for the mount
	n.write("var/lib/dpkg/status", "", 0o644)
	n.write("etc/docker/daemon.json", "the overlay's\n", 0o644)
	n.write("var/lib/hatchery/preload/images.tar", "alpine", 0o644)

	n.must("dpkg --install " + n.build("man-db"))
	n.must("dpkg --no-triggers --force-confold --unpack " + n.build("docker.io") + " " + n.build("runc"))
	n.must("echo docker.io hold | dpkg --set-selections")
	n.write("var/lib/hatchery/packages/pending", "docker.io\n", 0o644)
	n.write("var/lib/hatchery/packages/scripts", scriptsOf, 0o644)
	// A version that is gone has left this.
	n.write("var/lib/hatchery/packages/old/cgroups.postrm", "#!/bin/sh\necho \"postrm $* $DPKG_MAINTSCRIPT_PACKAGE\" >>/log\n", 0o755)
	n.log() // dpkg has run the scripts that the builder leaves to the node
	return n
}

// build makes a package, and gives its path in the root.
func (n *node) build(name string) string {
	n.t.Helper()
	dir := "tmp/" + name
	for file, text := range packageScripts[name] {
		switch file {
		case "preinst", "postinst":
			n.write(dir+"/DEBIAN/"+file, "#!/bin/sh\nset -e\n"+text+"\n", 0o755)
		case "control":
		default:
			n.write(dir+"/DEBIAN/"+file, text, 0o644)
		}
	}
	n.write(dir+"/DEBIAN/control", "Package: "+name+"\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: x\n"+packageScripts[name]["control"], 0o644)
	for file, text := range packageFiles[name] {
		n.write(dir+"/"+file, text, 0o644)
	}
	testtool.Run(n.t, "dpkg-deb", "--build", n.path(dir), n.path(dir+".deb"))
	return "/" + dir + ".deb"
}

// wantDone checks that nothing is left to do.
func (n *node) wantDone(summary string) {
	n.t.Helper()
	if got := n.must("dpkg --audit"); got != "" {
		n.t.Errorf("%s: dpkg --audit says:\n%s", summary, got)
	}
	want := "docker.io hold ok installed\nman-db install ok installed\nrunc install ok installed\n"
	if got := n.must(`dpkg-query --show --showformat='${Package} ${Status}\n'`); strings.ReplaceAll(got, "podman install ok installed\n", "") != want {
		n.t.Errorf("%s: packages:\n%s", summary, got)
	}
	for _, name := range []string{"packages/pending", "packages/rest", "packages/scripts", "packages/old", "packages/done", "packages/done.new", "preload/images.tar"} {
		if n.exists("var/lib/hatchery/" + name) {
			n.t.Errorf("%s: %s is left", summary, name)
		}
	}
	if got := n.read("var/lib/docker/images"); got != "alpine" {
		n.t.Errorf("%s: Docker has %q", summary, got)
	}
	if !n.exists("run/docker") {
		n.t.Errorf("%s: Docker is not started", summary)
	}
	// What was there before the package stays; what was not is the package's.
	if got := n.read("etc/docker/daemon.json") + n.read("etc/default/docker"); got != "the overlay's\nthe package's\n" {
		n.t.Errorf("%s: configuration %q", summary, got)
	}
}
