package api_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"

	"hatchery/controller"
	"hatchery/controller/api"
	"hatchery/controller/console"
	"hatchery/controller/operation"
	"hatchery/controller/page"
	"hatchery/controller/power"
	"hatchery/controller/preserve"
	"hatchery/controller/workload"
	"hatchery/internal/enrol"
	"hatchery/internal/kept"
	"hatchery/internal/reimage"
	"hatchery/internal/swarmbackup"
	"hatchery/netboot"
	"hatchery/netboot/nbd"
	"hatchery/netboot/slots"
	"hatchery/netboot/store"
)

// schemas are the types that the document's schemas are of. nil is a word, or has
// types of Docker's.
var schemas = map[string]reflect.Type{
	"Code":              nil,
	"Error":             reflect.TypeFor[enrol.Error](),
	"TimeAnswer":        reflect.TypeFor[enrol.TimeAnswer](),
	"SwarmState":        reflect.TypeFor[enrol.SwarmState](),
	"JoinRequest":       reflect.TypeFor[enrol.JoinRequest](),
	"JoinAnswer":        reflect.TypeFor[enrol.JoinAnswer](),
	"StatusReport":      reflect.TypeFor[enrol.StatusReport](),
	"StatusAnswer":      reflect.TypeFor[enrol.StatusAnswer](),
	"Generations":       reflect.TypeFor[enrol.Generations](),
	"Generation":        reflect.TypeFor[enrol.Generation](),
	"Health":            reflect.TypeFor[enrol.Health](),
	"Finding":           reflect.TypeFor[enrol.Finding](),
	"ClusterView":       reflect.TypeFor[enrol.ClusterView](),
	"WorkloadsView":     reflect.TypeFor[enrol.WorkloadsView](),
	"StackView":         reflect.TypeFor[enrol.StackView](),
	"SlotView":          reflect.TypeFor[enrol.SlotView](),
	"OperationView":     reflect.TypeFor[enrol.OperationView](),
	"Told":              reflect.TypeFor[enrol.Told](),
	"BackupView":        reflect.TypeFor[enrol.BackupView](),
	"AlarmEntry":        reflect.TypeFor[enrol.AlarmEntry](),
	"Listing":           reflect.TypeFor[swarmbackup.Listing](),
	"Entry":             reflect.TypeFor[swarmbackup.Entry](),
	"Arm":               reflect.TypeFor[reimage.Arm](),
	"Armed":             reflect.TypeFor[reimage.Armed](),
	"Revocation":        reflect.TypeFor[controller.Revocation](),
	"Event":             reflect.TypeFor[controller.Event](),
	"NetbootView":       reflect.TypeFor[netboot.View](),
	"NetbootSlot":       reflect.TypeFor[netboot.SlotView](),
	"NetbootProgress":   reflect.TypeFor[slots.Progress](),
	"NetbootEntry":      reflect.TypeFor[slots.Entry](),
	"NetbootGeneration": reflect.TypeFor[store.Generation](),
	"NetbootRoot":       reflect.TypeFor[store.Root](),
	"NetbootLabel":      reflect.TypeFor[store.Label](),
	"NetbootDisk":       reflect.TypeFor[netboot.DiskView](),
	"NBDCounters":       reflect.TypeFor[nbd.Counters](),
	"PowerView":         reflect.TypeFor[power.View](),
	"PowerSlot":         reflect.TypeFor[power.SlotView](),
	"PowerOutcome":      reflect.TypeFor[power.Outcome](),
	"ConsoleView":       reflect.TypeFor[console.View](),
	"Image":             reflect.TypeFor[reimage.Image](),
	"Wanted":            reflect.TypeFor[reimage.Wanted](),
	"Progress":          reflect.TypeFor[reimage.Progress](),
	"KeptRoot":          reflect.TypeFor[kept.Root](),
	"KeptLeft":          reflect.TypeFor[kept.Left](),
	"KeptUser":          reflect.TypeFor[kept.User](),
	"KeptPlan":          reflect.TypeFor[kept.Plan](),
	"KeptOrder":         reflect.TypeFor[kept.Order](),
	"KeptOffer":         reflect.TypeFor[kept.Offer](),
	"KeptReceipt":       reflect.TypeFor[kept.Receipt](),
	"KeptView":          reflect.TypeFor[preserve.View](),
	"Operation":         reflect.TypeFor[operation.Operation](),
	"OperationRequest":  reflect.TypeFor[operation.Request](),
	"OperationSlot":     reflect.TypeFor[operation.Slot](),
	"OperationBefore":   reflect.TypeFor[operation.Before](),
	"OperationPlan":     reflect.TypeFor[operation.Plan](),
	"Workloads":         nil,
	"WorkloadStatus":    reflect.TypeFor[workload.Status](),
	"WorkloadStack":     reflect.TypeFor[workload.StackStatus](),
	"WorkloadService":   reflect.TypeFor[workload.ServiceStatus](),
	"WorkloadObject":    reflect.TypeFor[workload.ObjectStatus](),
	"WorkloadPlan":      reflect.TypeFor[workload.Plan](),
	"WorkloadStep":      reflect.TypeFor[workload.Step](),
	"PageView":          reflect.TypeFor[page.View](),
	"PageToken":         reflect.TypeFor[page.TokenAnswer](),
	"PageAction":        reflect.TypeFor[page.ActionAnswer](),
}

func document(t *testing.T) *openapi3.T {
	t.Helper()
	d, err := openapi3.NewLoader().LoadFromData(api.Document())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestDocument has the document judged by OpenAPI's own rules.
func TestDocument(t *testing.T) {
	d := document(t)
	if err := d.Validate(t.Context()); err != nil {
		t.Error(err)
	}
	names := map[string]bool{}
	for path, item := range d.Paths.Map() {
		for method, op := range item.Operations() {
			if op.OperationID == "" || names[op.OperationID] || op.Summary == "" || len(op.Tags) == 0 {
				t.Errorf("%s %s has no name or summary of its own, or nobody answers it", method, path)
			}
			names[op.OperationID] = true
			for _, tag := range op.Tags {
				if d.Tags.Get(tag) == nil {
					t.Errorf("%s %s is answered by %q, which is nobody", method, path, tag)
				}
			}
		}
	}
}

// TestEveryCallIsInTheDocument compares it with the patterns that the handlers
// are registered by, in both directions.
func TestEveryCallIsInTheDocument(t *testing.T) {
	routes, unread := routesOf(t, "../..")
	if len(routes) < 20 {
		t.Fatalf("only %d routes are found: is the source where it was?", len(routes))
	}
	for _, u := range unread {
		t.Errorf("%s: a pattern that this test cannot read: make it of constants", u)
	}
	served := map[string]bool{}
	for _, r := range routes {
		served[r.String()] = true
	}
	described := map[string]bool{}
	for path, item := range document(t).Paths.Map() {
		for method, op := range item.Operations() {
			for _, door := range op.Tags {
				described[route{door, method, path}.String()] = true
			}
		}
	}
	for _, r := range routes {
		if r.method == anyMethod {
			for _, method := range methods {
				this := route{r.door, method, r.path}.String()
				// What it answers is what the document says, and there is something.
				if described[this] {
					served[this], described[r.String()] = true, true
				}
			}
		}
	}
	for r := range served {
		if !described[r] && !sharedWithThePage(r, described) {
			t.Errorf("openapi.yaml lacks %s", r)
		}
	}
	for r := range described {
		if strings.Contains(r, " "+anyMethod+" ") {
			continue
		}
		if !served[r] && !sharedByThePage(r, served) {
			t.Errorf("openapi.yaml has %s, which nobody serves", r)
		}
	}
}

var methods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"}

// The page may pass on what the socket serves; then it has no pattern of its own.
func sharedByThePage(r string, served map[string]bool) bool {
	rest, page := strings.CutPrefix(r, "page ")
	return page && served["socket "+rest]
}

// A route of a part that both doors have is found once.
func sharedWithThePage(r string, described map[string]bool) bool {
	rest, socket := strings.CutPrefix(r, "socket ")
	return socket && described["page "+rest]
}

// TestEveryCodeIsInTheDocument compares the codes of errors and alarms with the
// constants that there are.
func TestEveryCodeIsInTheDocument(t *testing.T) {
	schema := document(t).Components.Schemas["Code"].Value
	var described []string
	for _, code := range schema.Enum {
		described = append(described, fmt.Sprint(code))
	}
	slices.Sort(described)
	there := codesOf(t, "../..")
	for _, code := range there {
		if !slices.Contains(described, code) {
			t.Errorf("openapi.yaml, schema Code, lacks %s", code)
		}
	}
	for _, code := range described {
		if !slices.Contains(there, code) {
			t.Errorf("openapi.yaml, schema Code, has %s, which is no code", code)
		}
	}
}

// TestSchemas compares each schema with the type that it is of: names, which of
// them are always there, and types.
func TestSchemas(t *testing.T) {
	d := document(t)
	byType := map[reflect.Type]string{}
	for name, typ := range schemas {
		if typ != nil {
			byType[typ] = name
		}
		if d.Components.Schemas[name] == nil {
			t.Errorf("openapi.yaml lacks the schema %s", name)
		}
	}
	for name, ref := range d.Components.Schemas {
		typ, known := schemas[name]
		if !known {
			t.Errorf("openapi.yaml has the schema %s: say in document_test.go which type that is of", name)
		}
		if typ == nil {
			continue
		}
		for _, complaint := range compare(ref.Value, typ, byType) {
			t.Errorf("openapi.yaml: %s.%s", name, complaint)
		}
	}
}

// compare tells where a schema is not what encoding/json makes of a type.
func compare(s *openapi3.Schema, typ reflect.Type, byType map[reflect.Type]string) (complaints []string) {
	want := map[string]reflect.StructField{}
	var required []string
	fields(typ, want, &required)
	for name, field := range want {
		have := s.Properties[name]
		if have == nil {
			complaints = append(complaints, name+" is missing")
			continue
		}
		if why := differs(have, field.Type, byType); why != "" {
			complaints = append(complaints, name+": "+why)
		}
	}
	for name := range s.Properties {
		if _, ok := want[name]; !ok {
			complaints = append(complaints, name+" is not a field")
		}
	}
	slices.Sort(required)
	if have := slices.Sorted(slices.Values(s.Required)); !slices.Equal(have, required) {
		complaints = append(complaints, fmt.Sprintf("required: %v, and always there are %v", have, required))
	}
	return complaints
}

func fields(typ reflect.Type, all map[string]reflect.StructField, required *[]string) {
	for i := range typ.NumField() {
		f := typ.Field(i)
		tag, tagged := f.Tag.Lookup("json")
		name, options, _ := strings.Cut(tag, ",")
		switch {
		case f.Anonymous && name == "":
			inner := f.Type
			if inner.Kind() == reflect.Pointer {
				inner = inner.Elem()
			}
			fields(inner, all, required)
			continue
		case !f.IsExported(), tagged && tag == "-":
			continue
		case name == "":
			name = f.Name
		}
		all[name] = f
		if !strings.Contains(options, "omitempty") && !strings.Contains(options, "omitzero") {
			*required = append(*required, name)
		}
	}
}

// differs says why a schema is not of a type, "" if it is.
func differs(s *openapi3.SchemaRef, typ reflect.Type, byType map[reflect.Type]string) string {
	for typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	is := func(kind, format string) string {
		if s.Value.Type == nil || !s.Value.Type.Is(kind) || format != "" && s.Value.Format != format {
			return fmt.Sprintf("is to be %s %s, of %s", kind, format, typ)
		}
		return ""
	}
	if name, ours := byType[typ]; ours {
		if s.Ref != "#/components/schemas/"+name {
			return "is to be a $ref to " + name
		}
		return ""
	}
	switch {
	case typ == reflect.TypeFor[time.Time]():
		return is("string", "date-time")
	case typ == reflect.TypeFor[[]byte]():
		return is("string", "byte")
	}
	switch typ.Kind() {
	case reflect.String:
		return is("string", "")
	case reflect.Bool:
		return is("boolean", "")
	case reflect.Int, reflect.Int64, reflect.Uint64, reflect.Int32, reflect.Uint32, reflect.Uint16, reflect.Uint8:
		return is("integer", "")
	case reflect.Float64:
		return is("number", "")
	case reflect.Slice, reflect.Array:
		if why := is("array", ""); why != "" {
			return why
		}
		return differs(s.Value.Items, typ.Elem(), byType)
	case reflect.Map:
		if why := is("object", ""); why != "" {
			return why
		}
		if s.Value.AdditionalProperties.Schema == nil {
			return "is to say what it maps to"
		}
		return differs(s.Value.AdditionalProperties.Schema, typ.Elem(), byType)
	}
	return "is of " + typ.String() + ", which has no schema: give it one, and name it in document_test.go"
}

// TestTheComparison sees that a schema that is wrong is found.
func TestTheComparison(t *testing.T) {
	type inner struct {
		A string `json:"a"`
	}
	type thing struct {
		inner
		B []inner           `json:"b,omitempty"`
		C map[string]int    `json:"c,omitempty"`
		D *time.Time        `json:"d,omitempty"`
		E []byte            `json:"e"`
		F int               `json:"-"`
		G bool              `json:",omitempty"`
		H *inner            `json:"h,omitzero"`
		I map[string]string `json:"i,omitempty"`
	}
	byType := map[reflect.Type]string{reflect.TypeFor[inner](): "Inner"}
	const right = `{"type": "object", "required": ["a", "e"], "properties": {"a": {"type": "string"},
		"b": {"type": "array", "items": {"$ref": "#/components/schemas/Inner"}}, "c": {"type": "object", "additionalProperties": {"type": "integer"}},
		"d": {"type": "string", "format": "date-time"}, "e": {"type": "string", "format": "byte"}, "G": {"type": "boolean"},
		"h": {"$ref": "#/components/schemas/Inner"}, "i": {"type": "object", "additionalProperties": {"type": "string"}}}}`
	for _, test := range []struct{ summary, old, new, complaint string }{
		{summary: "it is right"},
		{"a field is missing", `"G": {"type": "boolean"},`, ``, "G is missing"},
		{"a field too many", `"G": {`, `"x": {"type": "string"}, "G": {`, "x is not a field"},
		{"another type", `"G": {"type": "boolean"}`, `"G": {"type": "string"}`, "G: is to be boolean"},
		{"another format", `"date-time"`, `"date"`, "d: is to be string date-time"},
		{"not always there", `["a", "e"]`, `["a", "e", "d"]`, "required"},
		{"always there", `["a", "e"]`, `["e"]`, "required"},
		{"items of another type", `{"$ref": "#/components/schemas/Inner"}}, "c"`, `{"type": "string"}}, "c"`, "b: is to be a $ref to Inner"},
		{"values of another type", `{"type": "integer"}`, `{"type": "string"}`, "c: is to be integer"},
	} {
		text := right
		if test.old != "" {
			if text = strings.Replace(right, test.old, test.new, 1); text == right {
				t.Fatalf("%s: the test changes nothing", test.summary)
			}
		}
		var components struct {
			OpenAPI string `json:"openapi"`
			Info    any    `json:"info"`
			Paths   any    `json:"paths"`
			C       any    `json:"components"`
		}
		components.OpenAPI, components.Info, components.Paths = "3.0.3", map[string]string{"title": "t", "version": "1"}, struct{}{}
		components.C = map[string]any{"schemas": map[string]any{"T": json.RawMessage(text), "Inner": map[string]any{"type": "object"}}}
		data, err := json.Marshal(components)
		if err != nil {
			t.Fatal(err)
		}
		d, err := openapi3.NewLoader().LoadFromData(data)
		if err != nil {
			t.Fatal(err)
		}
		complaints := strings.Join(compare(d.Components.Schemas["T"].Value, reflect.TypeFor[thing](), byType), "; ")
		if (complaints == "") != (test.complaint == "") || !strings.Contains(complaints, test.complaint) {
			t.Errorf("%s: it complains %q", test.summary, complaints)
		}
	}
}

// TestNetbootActions compares the document with what the calls of netboot do.
func TestNetbootActions(t *testing.T) {
	item := document(t).Paths.Value("/netboot/slots/{slot}/{action}")
	var described []string
	for _, p := range item.Parameters {
		if p.Value.Name == "action" {
			for _, a := range p.Value.Schema.Value.Enum {
				described = append(described, fmt.Sprint(a))
			}
		}
	}
	there := []string{netboot.DoNetboot, netboot.DoEphemeral, netboot.DoDisable, netboot.DoReset, netboot.DoUndo, netboot.DoRetry,
		netboot.DoStopped, netboot.DoOn, netboot.DoOff, netboot.DoCycle}
	slices.Sort(described)
	slices.Sort(there)
	if !slices.Equal(described, there) {
		t.Errorf("the document has the actions %v, and there are %v", described, there)
	}
}

// sortedKeys are for messages that do not change from run to run.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
