package loadtest

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// The switch registers at a Kamailio, which knows it by nothing else, and gets
// its calls by the Contact alone: no source of the trunk stands in the dialplan.
// It does so while calls talk through it, across a release and back, and takes
// its binding away when the trunk is removed.
func TestKamailioIsRegisteredAt(t *testing.T) {
	secrets := filepath.Join(t.TempDir(), "trunks.yaml")
	if err := os.WriteFile(secrets, []byte("- {trunk: club, user: us, password: club-secret}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for i, algorithm := range []string{"", "SHA256"} {
		t.Run("with "+algorithm, func(t *testing.T) {
			b, _ := realSwitchAs(t, 0, nil, func(s Site) []byte { return fmt.Appendf(DefaultConfig(s), "trunks:\n  passwords: %q\n", secrets) })
			at, phone := sippPort(t, fmt.Sprintf("127.0.0.%d", 33+i)), b.rig.callees[0].Addr()
			club := kamailio(t, "club.cfg", at, algorithm)
			b.rig.callers[0].tr.(*udpTransport).to = at
			callee := DialplanPeer{Name: "callee", Kind: "phone", Sources: []string{phone.String()}, Target: "sip:" + phone.String()}
			plan := Dialplan{Peers: []DialplanPeer{callee, {
				Name: "club", Kind: "trunk", Target: "sip:" + at.String(),
				Register: &DialplanRegister{AOR: "sip:us@" + at.String(), Expires: 30, Number: "to"},
			}}, Routes: []DialplanRoute{{Prefix: "7", To: "callee", From: "club"}}}
			if err := b.sw.plan(t.Context(), plan); err != nil {
				t.Fatal(err)
			}
			one := b.enlisted(t, "not registered", func(c Carrier) bool { return c.State == "bound" })
			if one.CSeq != 2 {
				t.Errorf("%+v", one)
			}
			calls := b.establish(t, 3)
			b.onward(t, len(calls))
			b.enlisted(t, "not refreshed", func(c Carrier) bool { return c.Until.After(one.Until) && c.State == "bound" })
			flowing(t, calls)
			b.hungUpByBoth(t, calls)
			plan.Peers, plan.Routes = plan.Peers[:1], nil
			if err := b.sw.plan(t.Context(), plan); err != nil {
				t.Fatal(err)
			}
			for ctx := patient(t, b.sw.cfg.Wait); ; {
				if cs, err := b.sw.API.Carriers(ctx); err == nil && len(cs) == 0 {
					break
				}
				if !pause(ctx, 50*time.Millisecond) {
					t.Fatal("it stays registered")
				}
			}
			late := b.rig.NewCall(Mark{}, answerAtOnce)
			if err := late.Establish(patient(t, b.sw.cfg.Wait)); err == nil {
				t.Error("a call came after the binding was taken away")
			} else if code, _ := late.A.Final(t.Context()); code != 404 {
				t.Errorf("%d", code)
			}
			// It counts the uses of a nonce: asked once, answered at once from then on.
			if asked, bound := club.lines(t, "ASKED"), club.lines(t, "BOUND"); len(bound) < 3 || len(asked) != 1 {
				t.Errorf("asked %q, bound %q", asked, bound)
			}
			b.mustKeepSecrets(t, "club-secret")
		})
	}
}
