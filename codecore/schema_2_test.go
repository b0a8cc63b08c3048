//go:build !nextrelease

package codecore

import (
	"flag"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

var fieldsFlag = flag.Bool("fields", false, "write the fields of schema 1; only before v0.1.0")

const schema1Fields = "testdata/snapshot/1/FIELDS"

// harmless are new fields that v0.1.0 may lose, each with what happens then.
var harmless = map[string]string{
	"coding": "what a party said of its coding cannot be said again until its next offer or answer: an offer of ours is not taken back",
	"srtp":   "a party's policy is asked again with its next call; a call that is protected is not written as schema 1 anyway",
	"update": "an UPDATE goes on as a re-INVITE until the party says its Allow again",
}

// TestNewFieldsPin finds each field that schema 1 does not have and sees that a
// call that uses it is not written as schema 1: v0.1.0 would lose it.
func TestNewFieldsPin(t *testing.T) {
	var s stored
	var now []string
	storedFields(reflect.TypeOf(s), "", nil, func(path string) { now = append(now, path) })
	slices.Sort(now)
	if *fieldsFlag {
		if err := os.WriteFile(schema1Fields, []byte(strings.Join(now, "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(schema1Fields)
	if err != nil {
		t.Fatal(err)
	}
	old := strings.Fields(string(b))
	for _, path := range old {
		if !slices.Contains(now, path) {
			t.Errorf("%s is in schema 1 and no longer stored: a field is never taken away or renamed without a migration", path)
		}
	}
	for _, path := range now {
		if slices.Contains(old, path) || harmless[path[strings.LastIndexByte(path, '.')+1:]] != "" {
			continue
		}
		var s stored
		use(t, reflect.ValueOf(&s).Elem(), strings.Split(path, "."))
		if added(&s) == "" {
			t.Errorf("%s is new, and a call that uses it would be written as schema 1: added() must look at it", path)
		}
	}
}

// TestOrdinaryCallsStaySchema1: what a call of v0.1.0 does pins nobody, or going
// back to it would have to wait for every ringing phone.
func TestOrdinaryCallsStaySchema1(t *testing.T) {
	for _, k := range kinds1 {
		w := newWorld(t)
		w.do(strings.Split(k.lines, "|")...)
		if schema, _, err := Encode(w.s, SchemaMin); err != nil || schema != 1 {
			t.Errorf("%s is a call of schema %d (%s), %v", k.name, schema, Summary(w.s).Pinned, err)
		}
	}
}

// storedFields calls found for each leaf under t that is stored: names as in
// JSON, joined by points.
func storedFields(t reflect.Type, at string, above []reflect.Type, found func(string)) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || t.NumField() == 0 || !hasJSON(t) || slices.Contains(above, t) {
		found(strings.TrimPrefix(at, "."))
		return
	}
	for i := range t.NumField() {
		f := t.Field(i)
		name, stored := jsonName(f)
		switch {
		case f.Anonymous && name == "":
			storedFields(f.Type, at, append(above, t), found)
		case stored:
			storedFields(f.Type, at+"."+name, append(above, t), found)
		}
	}
}

func jsonName(f reflect.StructField) (name string, stored bool) {
	name, _, _ = strings.Cut(f.Tag.Get("json"), ",")
	return name, name != "" && name != "-"
}

func hasJSON(t reflect.Type) bool {
	for i := range t.NumField() {
		if _, stored := jsonName(t.Field(i)); stored {
			return true
		}
	}
	return false
}

// use puts something at a path: one element in each slice or map on the way.
func use(t *testing.T, v reflect.Value, path []string) {
	t.Helper()
	if v.Type() == reflect.TypeFor[time.Time]() {
		v.Set(reflect.ValueOf(testStart))
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		use(t, v.Elem(), path)
		return
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		use(t, v.Index(0), path)
		return
	case reflect.Map:
		e := reflect.New(v.Type().Elem()).Elem()
		use(t, e, path)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.Zero(v.Type().Key()), e)
		return
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(testStart))
			return
		}
		for i := range v.NumField() {
			name, stored := jsonName(v.Type().Field(i))
			switch {
			case v.Type().Field(i).Anonymous && name == "" && inside(v.Field(i).Type(), path[0]):
				use(t, v.Field(i), path)
				return
			case stored && len(path) > 0 && name == path[0]:
				use(t, v.Field(i), path[1:])
				return
			}
		}
	case reflect.String:
		v.SetString("x")
		return
	case reflect.Bool:
		v.SetBool(true)
		return
	default:
		if v.CanInt() {
			v.SetInt(1)
			return
		}
		if v.CanUint() {
			v.SetUint(1)
			return
		}
	}
	t.Fatalf("cannot use %s in %s", strings.Join(path, "."), v.Type())
}

func inside(t reflect.Type, name string) bool {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	for i := range t.NumField() {
		n, _ := jsonName(t.Field(i))
		if n == name || t.Field(i).Anonymous && n == "" && inside(t.Field(i).Type, name) {
			return true
		}
	}
	return false
}
