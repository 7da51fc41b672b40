package operation

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"
)

// fill gives every field a value of its own.
func fill(t *testing.T, v reflect.Value, n *int64) {
	t.Helper()
	*n++
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(t, v.Elem(), n)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Unix(*n, 0).UTC()))
			return
		}
		for i := range v.NumField() {
			if v.Type().Field(i).Tag.Get("json") != "-" {
				fill(t, v.Field(i), n)
			}
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(t, v.Index(0), n)
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf("k"), reflect.ValueOf("v"))
	case reflect.String:
		v.SetString(string(rune('a' + *n%26)))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(*n)
	default:
		t.Fatalf("%s cannot be filled", v.Type())
	}
}

// TestRecordKeepsAll: whatever is known of an operation outlives the service.
func TestRecordKeepsAll(t *testing.T) {
	r := new(record)
	n := int64(0)
	fill(t, reflect.ValueOf(r).Elem(), &n)
	r.Version = version
	o := r.Operations[0]
	o.Request.Kind, o.State, o.Slots[0].Step = Undo, Running, StepUndo
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	again, err := parseRecord(data)
	if err != nil || !reflect.DeepEqual(again, r) {
		t.Errorf("%v\n%+v\nwant\n%+v", err, again.Operations[0], o)
	}
}
