package modules_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hatchery/netboot/node/modules"
)

func TestParse(t *testing.T) {
	text := `# in order
/lib/modules/6.1/kernel/drivers/usb/dwc2/dwc2.ko
lib/modules/6.1/kernel/drivers/block/nbd.ko max_part=4
/lib/modules/6.1/kernel/drivers/md/dm-snapshot.ko   # for ephemeral

/lib/modules/6.1/kernel/drivers/usb/dwc2/dwc2.ko
`
	got, err := modules.Parse(text, map[string][]string{"nbd": {"nbds_max=2"}, "dm_snapshot": {"a=1", "b=2"}})
	if err != nil {
		t.Fatal(err)
	}
	want := []modules.Module{
		{Path: "/lib/modules/6.1/kernel/drivers/usb/dwc2/dwc2.ko"},
		{Path: "/lib/modules/6.1/kernel/drivers/block/nbd.ko", Parameters: "nbds_max=1 max_part=4 nbds_max=2"},
		{Path: "/lib/modules/6.1/kernel/drivers/md/dm-snapshot.ko", Parameters: "a=1 b=2"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if name := got[2].Name(); name != "dm_snapshot" {
		t.Errorf("its name is %q", name)
	}
	if _, err := modules.Parse(strings.Repeat("x", 1<<20), nil); err == nil {
		t.Error("a megabyte is taken for a list")
	}
	var many strings.Builder
	for i := range 2000 {
		many.WriteString("/m" + strings.Repeat("x", i%50) + string(rune('a'+i%26)) + strings.Repeat("y", i/50) + ".ko\n")
	}
	if _, err := modules.Parse(many.String(), nil); err == nil {
		t.Error("two thousand modules are taken")
	}
}

func FuzzParse(f *testing.F) {
	f.Add("/a/b.ko x=1 # y\n../../c.ko.xz\n")
	f.Fuzz(func(t *testing.T, text string) {
		all, err := modules.Parse(text, nil)
		for _, m := range all {
			if err != nil || !strings.HasPrefix(m.Path, "/") || strings.Contains(m.Path, "/../") {
				t.Errorf("%+v, %v", m, err)
			}
		}
	})
}
