package main

import (
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"callswitch/codecore"
)

// The plans that people copy are plans, and every key of one is explained.
func TestDialplanIsDocumented(t *testing.T) {
	doc, err := os.ReadFile("dialplan.md")
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"dialplan.md": string(doc), "README.md": string(readme)} {
		plans := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(text, -1)
		if len(plans) == 0 {
			t.Errorf("%s has no plan", name)
		}
		for _, m := range plans {
			if _, err := parsePlan([]byte(m[1])); err != nil {
				t.Errorf("%s: %v\n%s", name, err, m[1])
			}
		}
	}
	var keys func(reflect.Type)
	keys = func(of reflect.Type) {
		for i := range of.NumField() {
			f := of.Field(i)
			key, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
			if key != "version" && !regexp.MustCompile("(?m)(^|[`{ ])"+key+"[`:,}]").Match(doc) { // the version is the switch's own
				t.Errorf("dialplan.md does not explain the key %s of %s", key, of.Name())
			}
			inner := f.Type
			for inner.Kind() == reflect.Pointer || inner.Kind() == reflect.Slice {
				inner = inner.Elem()
			}
			if inner.Kind() == reflect.Struct {
				keys(inner)
			}
		}
	}
	keys(reflect.TypeFor[codecore.Plan]())
}
