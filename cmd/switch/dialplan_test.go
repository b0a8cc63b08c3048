package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"callswitch/codecore"
)

// A rule that cannot be is refused with its line.
func TestPlanIsRefusedWithItsLine(t *testing.T) {
	for source, want := range map[string]string{
		"peers:\n  - {name: a, kind: phone, sources: [192.0.2.1]}\n  - name: b\n    kind: phone\n    sources: [192.0.2.1]\n": `line 3: peers[1]: source "192.0.2.1" is that of "a" already`,
		"peers: []\nlimits:\n  min_se: 600\n  session_expires: 300\n":                                                        "line 4: limits.session_expires: 300 is less than min_se, 600",
		"peers: []\nlimits: {max_call: -1}\n":                                                                                "line 2: limits: seconds cannot be negative",
		"peers: []\n\nredirect: maybe\n":                                                                                     "line 3: redirect",
		"peers: [{name: a, kind: phone}]\nroutes:\n  - {prefix: 1, to: a}\n":                                                 `line 3: routes[0]: peer "a" has no target`,
		"routes:\n  - {prefix: 1, to: 'service:echo'}\n  - {prefix: 1, to: 'service:tone', from: account}\n":                 "line 3: routes[1]: prefix",
		"peers: [{name: a, kind: phone, soruces: [192.0.2.1]}]\n":                                                            `[1:32] unknown field "soruces"`,
	} {
		if _, err := parsePlan([]byte(source)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v\nwant %s", source, err, want)
		}
	}
}

// An account that is rung by its name must not be named as a service is.
func TestAccountNamedAsAService(t *testing.T) {
	plan, err := parsePlan([]byte(demoPlan))
	if err != nil {
		t.Fatal(err)
	}
	other, err := parsePlan([]byte("routes:\n  - {prefix: 600, to: 'service:echo'}\n  - {prefix: 7, to: 'account:{number}'}\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		in   codecore.Plan
		name string
		bad  bool
	}{{plan, "600", true}, {plan, "6001", true}, {plan, "60", false}, {plan, "anna", false}, {other, "600", false}, {other, "7600", false}} {
		if why := unringable(&c.in, c.name); (why != "") != c.bad {
			t.Errorf("%s: %q", c.name, why)
		}
	}
}

func TestAccountsFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "accounts.yaml")
	hash := strings.Repeat("ab", 32)
	write := func(text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		text string
		mode os.FileMode
		want string
	}{
		{"- {name: bob, ha1_sha256: " + hash + "}\n- name: bob\n  ha1_sha256: " + hash + "\n", 0o600, "line 2: bob stands twice"},
		{"- {name: bob, ha1_sha256: " + hash + "}\n\n- name: b b\n  ha1_sha256: " + hash + "\n", 0o600, `line 3: registrar: account: name "b b"`},
		{"- {name: bob, ha1_sha256: " + hash + "}\n", 0o644, "chmod o="},
		{"- {name: bob, sha256: " + hash + "}\n", 0o600, "line 1 cannot be read"},
		{"- {name: bert, ha1_sha256: " + hash + "}\n", 0o600, "has bert, and so has softphone.demo"},
		{"- {name: bob, ha1_sha256: " + hash + "}\n", 0o640, ""},
	} {
		write(c.text, c.mode)
		_, err := readConfig("switch.yaml", []byte("softphone: {demo: true}\nregistrar:\n  accounts: "+path), none, none)
		if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "switch.yaml:3: registrar.accounts") || strings.Contains(err.Error(), hash)) {
			t.Errorf("%s: %v, want %s", c.text, err, c.want)
		}
	}
}
