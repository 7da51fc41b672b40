package spec_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hatchery/internal/spec"
)

const threeControllers = threeLines + `controller: {network: cbridge, model: 4}
controllers:
- {hostname: hammond, address: 192.168.42.11/24, slots: [p1-p4]}
- {address: 192.168.42.12/24, slots: [p6, p5]}
- {hostname: oneill, address: 192.168.42.13/24, slots: [p9]}
slots: {p5: {hostname: carter}, p1: {labels: {disk: ssd}}}
`

// TestControllersNetboot: a slot that boots without a card is on its HAT's connector,
// whatever its number; one on no HAT says where it hangs.
func TestControllersNetboot(t *testing.T) {
	content := strings.Replace(threeControllers, "[p9]", "[p9, p20]", 1)
	content = strings.Replace(content, "p5: {hostname: carter}", "p5: {root: netboot}, p9: {root: ephemeral}, p20: {root: netboot, usb: 1-1.3}", 1)
	c, err := load(t, home(t), content)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range c.Slots {
		if s.Root != "card" {
			got = append(got, fmt.Sprintf("p%d %s %q", s.Number, s.Root, s.USB))
		}
	}
	if diff := cmp.Diff([]string{`p5 netboot ""`, `p9 ephemeral ""`, `p20 netboot "1-1.3"`}, got); diff != "" {
		t.Error(diff)
	}
	if first := fmt.Sprint(c.FirstOf(0), c.FirstOf(1), c.FirstOf(2)); first != "1 5 9" {
		t.Errorf("the HATs begin with %s", first)
	}
	_, err = load(t, home(t), strings.Replace(content, ", usb: 1-1.3", "", 1))
	if err == nil || !strings.Contains(err.Error(), "p20 is not on the HAT whose other slots are p9 to p12") {
		t.Errorf("p20, which hangs nowhere: %v", err)
	}
}

func TestControllers(t *testing.T) {
	c, err := load(t, home(t), threeControllers)
	if err != nil {
		t.Fatal(err)
	}
	line := func(targets []spec.Target) (lines []string) {
		for _, target := range targets {
			lines = append(lines, fmt.Sprint(target.Name, " ", target.Slot, " ", target.HAT, " ", target.Hostname, " ", target.Model))
		}
		return lines
	}
	if diff := cmp.Diff([]string{
		"controller 0 0 hammond 4", "controller2 0 1 controller2 4", "controller3 0 2 oneill 4",
		"p1 1 0 p1 zero", "p2 2 0 p2 zero", "p3 3 0 p3 zero", "p4 4 0 p4 zero", "p5 5 1 carter zero", "p6 6 1 p6 zero", "p9 9 2 p9 zero",
	}, line(c.Targets())); diff != "" {
		t.Error(diff)
	}
	selected, err := c.Select([]string{"controller2", "p6"})
	if err != nil {
		t.Fatal(err)
	}
	view := c.Around(selected[1])
	if diff := cmp.Diff([]string{"controller2 0 1 controller2 4", "p5 5 1 carter zero", "p6 6 1 p6 zero"}, line(view.Targets())); diff != "" {
		t.Errorf("around p6: %s", diff)
	}
	if got, want := fmt.Sprint(view.Controller.Address, view.Controller.Gateway, len(c.Slots)), "192.168.42.12/24 192.168.42.1 7"; got != want {
		t.Errorf("around p6 the controller has %s, not %s", got, want)
	}
	alone, err := load(t, home(t), threeLines)
	if err != nil {
		t.Fatal(err)
	}
	if alone.Around(alone.Targets()[1]) != alone {
		t.Error("around a slot of the only controller is not all of the cluster")
	}
}

// TestControllersOverlays: files can be for one of the controllers alone, up to the
// seventh there may be.
func TestControllersOverlays(t *testing.T) {
	for folder, want := range map[string]string{
		"controller2": "", "controller7": "",
		"controller1": `the folder "controller1" in it would go to no node`, "controller8": `the folder "controller8" in it would go to no node`,
	} {
		dir := home(t)
		if err := os.MkdirAll(filepath.Join(dir, "mine", folder), 0o755); err != nil {
			t.Fatal(err)
		}
		_, err := load(t, dir, threeControllers+"overlays: [mine]\n")
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", folder, err)
		}
	}
}

func TestControllersProblems(t *testing.T) {
	dir := home(t)
	one := func(n, slots string) string {
		return "- {address: 192.168.42." + n + "/24, slots: [" + slots + "]}\n"
	}
	bridged := threeLines + "controller: {network: cbridge}\ncontrollers:\n"
	for _, test := range []struct {
		summary, content string
		want             []string
	}{
		{"behind addresses of their own", threeLines + "controller: {network: cnat}\ncontrollers:\n" + one("11", "p1") + one("12", "p2") + one("13", "p3"),
			[]string{"4:23: controller.network: several controllers need `controller: {network: cbridge}`: with cnat the slots of each controller are in a network behind it"}},
		{"behind addresses of their own, by default", threeLines + "controllers:\n" + one("11", "p1") + one("12", "p2") + one("13", "p3"),
			[]string{"5:1: controllers: several controllers need"}},
		{"a list of none", bridged + "  []\n", []string{"6:3: controllers: names no controller"}},
		{"one", bridged + one("11", "p1"), []string{"6:1: controllers: is for several"}},
		{"two", bridged + one("11", "p1") + one("12", "p2"), []string{"6:1: controllers: 2 managers go on after the loss of 0, as 1 do"}},
		{"four", bridged + one("11", "p1") + one("12", "p2") + one("13", "p3") + one("14", "p4"), []string{"6:1: controllers: 4 managers go on after the loss of 1, as 3 do"}},
		{"eight", bridged + one("11", "p1") + one("12", "p2") + one("13", "p3") + one("14", "p4") + one("15", "p5") + one("16", "p6") + one("17", "p7") + one("18", "p8"),
			[]string{"6:1: controllers: 8 managers are too many"}},
		{"what is each controller's own", threeLines + "controller: {network: cbridge, hostname: a, address: 192.168.42.9/24}\ncontrollers:\n" + one("11", "p1") + one("12", "p2") + one("13", "p3"),
			[]string{"4:42: controller.hostname: is each controller's own", "4:54: controller.address: is each controller's own"}},
		{"by DHCP", bridged + "- {address: dhcp, slots: [p1]}\n- {slots: [p2]}\n" + one("13", "p3"),
			[]string{"6:13: controllers[0].address: the other managers must find", "7:3: controllers[1].address: is missing"}},
		{"addresses", bridged + one("11", "p1") + one("11", "p2") + "- {address: 192.168.43.13/24, slots: [p3]}\n",
			[]string{"7:13: controllers[1].address: 192.168.42.11 is the address of controller already", "8:13: controllers[2].address: 192.168.43.0/24 is another network than that of controller, 192.168.42.0/24"}},
		{"slots", bridged + one("11", "p1-p4, p3") + one("12", "p2, x, p4-p1") + "- {address: 192.168.42.13/24, slots: []}\nslots: {p7: }\n",
			[]string{"6:46: controllers[0].slots[1]: p3 stands here twice", "7:38: controllers[1].slots: p2 is on the HAT of controller already", `7:43: controllers[1].slots[1]: "x" is neither a slot`,
				`7:46: controllers[1].slots[2]: "p4-p1" ends before`, "8:38: controllers[2].slots: names no slot", "9:9: slots.p7: is on no controller"}},
		{"more slots than a HAT has", bridged + one("11", "p1-p5") + one("12", "p6") + one("13", "p9, p70"),
			[]string{"6:38: controllers[0].slots: p5 is not on the HAT whose other slots are p1 to p4", "8:38: controllers[2].slots: p70 is not on the HAT whose other slots are p9 to p12"}},
		{"names of others", bridged + "- {hostname: controller3, address: 192.168.42.11/24, slots: [p1]}\n- {hostname: p3, address: 192.168.42.12/24, slots: [p2]}\n- {hostnam: a, address: 192.168.42.13/24, slots: [p3]}\nslots: {p1: {hostname: Controller2}}\n",
			[]string{`6:14: controllers[0].hostname: "controller3" is the name of another target`, `7:14: controllers[1].hostname: "p3" is the name of another target`, `8:4: controllers[2].hostnam: is not a known key: did you mean hostname?`, `9:24: slots.p1.hostname: "Controller2" is the name of another target`}},
		{"no list", threeLines + "controllers: {hostname: a}\n", []string{"4:14: controllers: wants a list"}},
		{"a list of words", bridged + "- a\n" + one("12", "p2") + one("13", "p3"), []string{"6:3: controllers[0]: wants keys of its own"}},
	} {
		t.Run(test.summary, func(t *testing.T) {
			_, err := load(t, dir, test.content)
			var all *spec.Errors
			if !errors.As(err, &all) {
				t.Fatalf("error %v", err)
			}
			var got []string
			for _, line := range strings.Split(err.Error(), "\n") {
				got = append(got, strings.TrimPrefix(line, filepath.Join(dir, "cluster.yaml")+":"))
			}
			ok := len(got) == len(test.want)
			for i := range min(len(got), len(test.want)) {
				ok = ok && strings.HasPrefix(got[i], test.want[i])
			}
			if !ok {
				t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(test.want, "\n\t"))
			}
		})
	}
}
