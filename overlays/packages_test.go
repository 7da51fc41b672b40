package overlays_test

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hatchery/internal/testtool"
)

// The tests in this file run /usr/lib/hatchery/packages in a small root with a
// dpkg database of its own, by the machine's dpkg and shells. systemctl, docker
// and sleep are stand-ins that write down what they were asked.

// packageScripts are the control files of the packages that the tests unpack.
// Each says in /log what it was run as.
var packageScripts = map[string]map[string]string{
	"docker.io": {
		"control": "Depends: runc\n",
		"preinst": `echo "preinst $* in $PWD: $DPKG_MAINTSCRIPT_PACKAGE $DPKG_MAINTSCRIPT_ARCH $DPKG_MAINTSCRIPT_NAME $DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT root=${DPKG_ROOT-unset} $DPKG_ADMINDIR $DEBIAN_FRONTEND ${DPKG_RUNNING_VERSION%%.*}" >>/log
if read -r line; then echo "preinst reads $line" >>/log; fi
if [ -e /preinst-fails ]; then echo "out of luck" >&2; exit 1; fi`,
		"postinst": `echo "docker.io postinst $*" >>/log
if [ -e /docker.io-fails ]; then exit 1; fi
systemctl --system daemon-reload
mkdir -p /etc/enabled
touch /etc/enabled/docker.service /etc/enabled/docker.socket
deb-systemd-invoke start docker.service docker.socket
invoke-rc.d 'odd\x2dname' start`,
		"conffiles": "/etc/docker/daemon.json\n/etc/default/docker\n",
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
	},
	"podman": {"usr/bin/podman": "no program\n"},
}

// stand-ins, below /usr/local/bin of the root.
var standIns = map[string]string{
	"systemctl": `case $* in
*is-enabled*) for unit; do :; done; [ -e "/etc/enabled/$unit" ]; exit ;;
esac
held=
if [ -e /var/lib/hatchery/packages/pending ]; then held=" (held)"; fi
echo "systemctl $*$held" >>/log
if [ "$*" = "start docker.service" ]; then
	if [ -e /docker-fails ]; then exit 1; fi
	touch /run/docker
fi`,
	"deb-systemd-invoke": `echo "deb-systemd-invoke $*" >>/log`,
	"invoke-rc.d":        `echo "invoke-rc.d $*" >>/log`,
	"docker": `if [ ! -e /run/docker ]; then echo "no daemon" >&2; exit 1; fi
echo "docker $1 $2 $(cat "$3")" >>/log
if [ -e /load-fails ]; then exit 1; fi
cat "$3" >/var/lib/docker/images`,
	// The second time, what was wrong no longer is.
	"sleep": `echo "sleep $1" >>/log
if [ -e /slept ]; then rm -f /*-fails; fi
touch /slept`,
}

// cutter stands before a tool: the power goes at its N-th call, counted before
// and after it has run. Process 1 is what the test has started, and survives.
const cutter = `#!/bin/sh
cut() {
	read -r n </cut/count
	n=$((n + 1))
	echo $n >/cut/count
	read -r at </cut/at
	if [ "$n" = "$at" ]; then
		kill -9 -1
	fi
}
cut
%s "$@"
status=$?
cut
exit $status
`

// A packagesNode is a node whose packages were unpacked by the builder.
type packagesNode struct {
	t    testing.TB
	root string
}

func (n *packagesNode) path(name string) string {
	return filepath.Join(n.root, filepath.FromSlash(name))
}

func (n *packagesNode) write(name, text string, mode fs.FileMode) {
	n.t.Helper()
	path := n.path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		n.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		n.t.Fatal(err)
	}
}

func (n *packagesNode) read(name string) string {
	n.t.Helper()
	data, err := os.ReadFile(n.path(name))
	if err != nil && !os.IsNotExist(err) {
		n.t.Fatal(err)
	}
	return string(data)
}

func (n *packagesNode) exists(name string) bool {
	_, err := os.Lstat(n.path(name))
	return err == nil
}

// in runs a shell's command line in the root, the machine's /usr below it.
func (n *packagesNode) in(command string) (string, error) {
	n.t.Helper()
	const enter = `for dir in bin sbin share; do mount --bind "/usr/$dir" "$0/usr/$dir"; done
mount --bind /usr/lib "$0/machine"; mount --rbind /dev "$0/dev"; mount -t proc proc "$0/proc"
if [ -d /usr/lib64 ]; then mount --bind /usr/lib64 "$0/usr/lib64"; fi
chroot "$0" /usr/bin/env -i PATH=/usr/local/bin:/usr/sbin:/usr/bin /bin/sh -c "$1"`
	out, err := exec.Command(testtool.Need(n.t, "unshare"), "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child",
		"sh", "-ec", enter, n.root, command).CombinedOutput()
	return string(out), err
}

func (n *packagesNode) must(command string) string {
	n.t.Helper()
	out, err := n.in(command)
	if err != nil {
		n.t.Fatalf("%s: %v\n%s", command, err, out)
	}
	return out
}

// boot runs the service as systemd does, by a shell. Docker is started by
// systemd itself if it is enabled and not held back.
func (n *packagesNode) boot(shell string) (string, error) {
	n.t.Helper()
	testtool.Run(n.t, "rm", "-rf", n.path("run"))
	if err := os.Mkdir(n.path("run"), 0o755); err != nil {
		n.t.Fatal(err)
	}
	if n.exists("etc/enabled/docker.service") && !n.exists("var/lib/hatchery/packages/pending") && !n.exists("docker-fails") {
		n.write("run/docker", "", 0o644)
	}
	return n.in("cd /tmp; " + shell + " /usr/lib/hatchery/packages </dev/null")
}

// log is what has been done since it was asked last.
func (n *packagesNode) log() string {
	n.t.Helper()
	text := n.read("log")
	if err := os.RemoveAll(n.path("log")); err != nil {
		n.t.Fatal(err)
	}
	return text
}

// newPackagesNode makes the root and unpacks the packages.
func newPackagesNode(t testing.TB) *packagesNode {
	t.Helper()
	testtool.NeedRoot(t)
	for _, tool := range []string{"unshare", "mount", "chroot", "dpkg", "dpkg-deb", "dash", "busybox"} {
		testtool.Need(t, tool)
	}
	n := &packagesNode{t, layOutVariant(t, exampleData("p1"))}
	// What the tests do not judge is in their way, and the rendered unit of
	// Docker's would be the package's.
	for _, dir := range []string{"dev", "proc", "run", "tmp", "machine", "etc/enabled", "usr/bin", "usr/sbin", "usr/share", "usr/local/bin",
		"var/lib/docker", "var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers"} {
		if err := os.MkdirAll(n.path(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	links := map[string]string{"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib"}
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
	n.write("var/lib/dpkg/status", "", 0o644)
	n.write("etc/docker/daemon.json", "the overlay's\n", 0o644)
	n.write("var/lib/hatchery/preload/images.tar", "alpine", 0o644)

	n.must("dpkg --install " + n.build("man-db"))
	n.must("dpkg --no-triggers --force-confold --unpack " + n.build("docker.io") + " " + n.build("runc"))
	n.must("echo docker.io hold | dpkg --set-selections")
	n.write("var/lib/hatchery/packages/scripts", scriptsOf, 0o644)
	// A version that is gone has left this.
	n.write("var/lib/hatchery/packages/old/cgroups.postrm", "#!/bin/sh\necho \"postrm $* $DPKG_MAINTSCRIPT_PACKAGE\" >>/log\n", 0o755)
	n.log() // dpkg has run the scripts that the builder leaves to the node
	return n
}

// build makes a package, and gives its path in the root.
func (n *packagesNode) build(name string) string {
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
func (n *packagesNode) wantDone(summary string) {
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

// ran are the shells that are the /bin/sh of some system.
var ran = []string{"dash", "busybox sh"}

// scriptsOf is what the builder has recorded.
const scriptsOf = `cgroups all postrm /var/lib/hatchery/packages/old/cgroups.postrm disappear docker.io 1
docker.io all configure /usr/bin/dpkg --force-confdef --force-confold --configure runc
docker.io all preinst /var/lib/dpkg/info/docker.io.preinst install
`

const configured = `postrm disappear docker.io 1 cgroups
runc postinst
preinst install in /: docker.io all preinst 1 root= /var/lib/dpkg noninteractive 1
docker.io postinst configure 
systemctl daemon-reload
deb-systemd-invoke start runc.service
deb-systemd-invoke start docker.service docker.socket
invoke-rc.d odd\x2dname start
systemctl start docker.socket
systemctl start docker.service
systemctl start docker.service
docker load --input alpine
man-db postinst triggered
`

func TestPackages(t *testing.T) {
	for _, shell := range ran {
		n := newPackagesNode(t)
		out, err := n.boot(shell)
		if err != nil {
			t.Fatalf("%s: %v\n%s", shell, err, out)
		}
		if diff := cmp.Diff(configured, n.log()); diff != "" {
			t.Errorf("%s (-want +got):\n%s\n%s", shell, diff, out)
		}
		n.wantDone(shell)
		for _, want := range []string{"hatchery: Docker's packages are configured, after ", "hatchery: Docker has the preloaded images, after "} {
			if !strings.Contains(out, want) {
				t.Errorf("%s: it does not say %q:\n%s", shell, want, out)
			}
		}
		// At the next boots there is nothing to do.
		if out, err := n.boot(shell); err != nil || out != "" || n.log() != "" {
			t.Errorf("%s: the second time: %v\n%s", shell, err, out)
		}
	}
}

// TestPackagesAgain: what fails is tried again, later each time, and told.
func TestPackagesAgain(t *testing.T) {
	const beforehand = "postrm disappear docker.io 1 cgroups\nrunc postinst\n"
	const preinst = "preinst install in /: docker.io all preinst 1 root= /var/lib/dpkg noninteractive 1\n"
	after := func(line string) string { return configured[strings.Index(configured, line):] }
	for _, test := range []struct {
		summary, fails string
		want, says     string
	}{
		{
			"a preinst", "preinst", beforehand + preinst + "sleep 15\n" + preinst + "sleep 30\n" + after("preinst"),
			"hatchery: preinst of package docker.io has failed: nothing is configured",
		},
		{
			// Each time once without triggers, and once with them.
			"Docker's postinst", "docker.io",
			beforehand + preinst + "docker.io postinst configure \ndocker.io postinst configure \nman-db postinst triggered\n" +
				"sleep 15\ndocker.io postinst configure \ndocker.io postinst configure \nsleep 30\n" +
				strings.TrimSuffix(after("docker.io postinst"), "man-db postinst triggered\n"),
			"hatchery: dpkg cannot configure the packages",
		},
		{
			// Its other start is asked for by the package, and is not the test's.
			"Docker does not start", "docker",
			strings.TrimSuffix(configured, after("docker load")) +
				"man-db postinst triggered\nsleep 15\nsystemctl start docker.service\nsleep 30\nsystemctl start docker.service\ndocker load --input alpine\n",
			"hatchery: Docker does not start: the images in /var/lib/hatchery/preload/images.tar are not loaded",
		},
		{
			"docker load", "load",
			configured + "sleep 15\nsystemctl start docker.service\ndocker load --input alpine\nsleep 30\nsystemctl start docker.service\ndocker load --input alpine\n",
			"hatchery: Docker does not load the images",
		},
		{
			"a trigger", "man-db", configured + "sleep 15\nman-db postinst configure\nsleep 30\nman-db postinst configure\n",
			"hatchery: a package is not configured",
		},
	} {
		for _, shell := range ran {
			n := newPackagesNode(t)
			n.write(test.fails+"-fails", "", 0o644)
			out, err := n.boot(shell)
			if err != nil {
				t.Fatalf("%s: %s: %v\n%s", shell, test.summary, err, out)
			}
			if diff := cmp.Diff(test.want, n.log()); diff != "" {
				t.Errorf("%s: %s (-want +got):\n%s\n%s", shell, test.summary, diff, out)
			}
			if !strings.Contains(out, test.says) {
				t.Errorf("%s: %s: it does not say %q:\n%s", shell, test.summary, test.says, out)
			}
			n.wantDone(test.summary)
		}
	}
}

// TestPackagesOfOthers: Docker does not wait for a package that it does not
// need.
func TestPackagesOfOthers(t *testing.T) {
	n := newPackagesNode(t)
	n.must("dpkg --no-triggers --unpack " + n.build("podman"))
	n.write("podman-fails", "", 0o644)
	n.write("usr/local/bin/sleep", "#!/bin/sh\necho \"sleep $1\" >>/log; kill -9 -1\n", 0o755)
	n.log()
	out, err := n.boot("dash")
	if err == nil || !strings.Contains(out, "hatchery: a package is not configured") {
		t.Errorf("%v\n%s", err, out)
	}
	log := n.log()
	if !strings.Contains(log, "docker load --input alpine\n") || !strings.HasSuffix(log, "podman postinst\nsleep 15\n") {
		t.Errorf("log:\n%s\n%s", log, out)
	}
	if n.exists("var/lib/hatchery/packages/pending") || !n.exists("var/lib/hatchery/packages/rest") {
		t.Error("Docker's units are held back")
	}
	// Docker has been started; the next boot is about the other package alone.
	if err := os.Remove(n.path("podman-fails")); err != nil {
		t.Fatal(err)
	}
	if out, err := n.boot("dash"); err != nil || n.log() != "podman postinst\n" {
		t.Errorf("%v\n%s", err, out)
	}
	n.wantDone("after the other package")
}

// TestPackagesLeftAlone: scripts of packages that have gone on meanwhile, and
// those that were run.
func TestPackagesLeftAlone(t *testing.T) {
	for _, test := range []struct{ summary, before, scripts, want string }{
		{"configured by hand", "dpkg --force-confold --configure docker.io runc", "", ""},
		{"removed by hand", "dpkg --purge docker.io", "", ""},
		{"no such script", "", "none all preinst /none install\n", "runc postinst"},
		{"blank lines, notes, no list's end", "", "\n# a note\ndocker.io all preinst /var/lib/dpkg/info/docker.io.preinst install 0.9 1\n", "preinst install 0.9 1 in /"},
		{"done", `cp /var/lib/hatchery/packages/scripts /var/lib/hatchery/packages/done`, "", "runc postinst"},
	} {
		n := newPackagesNode(t)
		if test.scripts != "" {
			n.write("var/lib/hatchery/packages/scripts", test.scripts, 0o644)
		}
		if test.before != "" {
			n.must(test.before)
		}
		n.log()
		n.write("usr/local/bin/sleep", "#!/bin/sh\nkill -9 -1\n", 0o755)
		out, _ := n.boot("dash")
		log := n.log()
		if !strings.Contains(log, test.want) {
			t.Errorf("%s:\n%s\n%s", test.summary, log, out)
		}
		if !strings.HasPrefix(test.want, "preinst") && strings.Contains(log, "preinst") {
			t.Errorf("%s: the script is run:\n%s", test.summary, log)
		}
		if n.exists("var/lib/hatchery/packages/pending") {
			t.Errorf("%s: packages are pending:\n%s", test.summary, out)
		}
	}
}

// TestPackagesAfterPowerCut cuts the power at each of the calls that the
// script makes to another program, before it and after it.
func TestPackagesAfterPowerCut(t *testing.T) {
	whole := newPackagesNode(t)
	// Whatever else is called only reads.
	for _, tool := range []string{"dpkg", "mkdir", "mv", "rm", "sync", "touch"} {
		whole.write("usr/local/bin/"+tool, fmt.Sprintf(cutter, "/usr/bin/"+tool), 0o755)
	}
	for tool, text := range standIns {
		whole.write("usr/local/lib/"+tool, "#!/bin/sh\n"+text+"\n", 0o755)
		whole.write("usr/local/bin/"+tool, fmt.Sprintf(cutter, "/usr/local/lib/"+tool), 0o755)
	}
	whole.write("cut/count", "0\n", 0o644)
	cuts, step := 0, 1
	if testing.Short() {
		step = 9
	}
	for at := 1; ; at += step {
		n := &packagesNode{t, filepath.Join(t.TempDir(), "root")}
		testtool.Run(t, "cp", "-a", whole.root, n.root)
		n.write("cut/at", fmt.Sprintln(at), 0o644)
		shell := ran[at%len(ran)]
		_, err := n.boot(shell)
		n.write("cut/at", "0\n", 0o644)
		if err == nil {
			n.wantDone("uncut")
			break
		}
		cuts++
		before := n.log()
		out, err := n.boot(shell)
		summary := fmt.Sprintf("cut at call %d", at)
		if err != nil {
			t.Fatalf("%s: %v\n%s", summary, err, out)
		}
		after := n.read("log")
		n.wantDone(summary)
		if strings.Contains(before+after, "docker.service (held)") {
			t.Errorf("%s: Docker was asked to start while it was held back:\n%s%s", summary, before, after)
		}
		// Once and no more, but where the cut came before it was noted.
		if strings.Contains(before, "docker.io postinst") && strings.Contains(after, "preinst") {
			t.Errorf("%s: a script is run again:\n%s--\n%s", summary, before, after)
		}
		if count := strings.Count(before+after, "preinst install"); count < 1 || count > 2 {
			t.Errorf("%s: a script is run %d times", summary, count)
		}
		if err := os.RemoveAll(n.root); err != nil {
			t.Fatal(err)
		}
	}
	if cuts < 30/step {
		t.Errorf("only %d cuts", cuts)
	}
	t.Logf("%d cuts", cuts)
}

// TestPackagesUnit: the service must not run, nor anything wait for it, where
// there is nothing to do.
func TestPackagesUnit(t *testing.T) {
	n := &packagesNode{t, layOutVariant(t, exampleData("p1"))}
	unit := n.read("usr/lib/systemd/system/hatchery-packages.service")
	conditions := regexp.MustCompile(`(?m)^ConditionPathExists=\|(.*)$`).FindAllStringSubmatch(unit, -1)
	script := n.read("usr/lib/hatchery/packages")
	var names []string
	for _, c := range conditions {
		names = append(names, filepath.Base(c[1]))
		if !strings.Contains(script, "$state/"+filepath.Base(c[1])) && !strings.Contains(script, c[1]) {
			t.Errorf("the script knows nothing of %s", c[1])
		}
	}
	if want := []string{"images.tar", "pending", "rest"}; !slices.Equal(slices.Sorted(slices.Values(names)), want) {
		t.Errorf("conditions %v, want %v", names, want)
	}
	if !n.exists("var/lib/hatchery/packages/pending") {
		t.Error("nothing is pending")
	}
	for _, gated := range []string{"docker.service", "docker.socket", "containerd.service"} {
		if !strings.Contains(n.read("etc/systemd/system/"+gated+".d/10-hatchery.conf"), "\nConditionPathExists=!/var/lib/hatchery/packages/pending\n") {
			t.Errorf("%s does not wait", gated)
		}
	}
}
