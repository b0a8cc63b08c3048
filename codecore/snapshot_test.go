package codecore

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

var snapshotFlag = flag.Bool("snapshot", false, "write records of calls that testdata/snapshot does not have yet; never touches an old one")

const snapshots = "testdata/snapshot"

type kind struct{ name, lines string }

// kinds of calls and their phases by the schema that they need, as lines of
// scenario_test.go.
var kinds = map[int][]kind{1: kinds1, 2: kinds2}

// kinds2 is what schema 2 adds.
var kinds2 = []kind{
	{"delayed_offer_inviting", "a INVITE|accept|b 180"},
	{"delayed_offer_answered", "a INVITE|b 200 sdp|accept"},
	{"inviting_100rel", "a INVITE sdp|accept|b 180"},
	{"prack_due_to_the_callee", "a INVITE sdp|accept|b 183 sdp rseq=1"},
	{"prack_awaited", "a INVITE sdp supported=100rel|accept|b 183 sdp rseq=1|b 200 PRACK|accept"},
	{"prack_awaited_200_waits", "a INVITE sdp require=100rel|b 183 sdp rseq=1|b 200 PRACK|b 200|accept"},
	{"prack_awaited_with_the_answer", "a INVITE supported=100rel|b 183 sdp rseq=1|accept"},
	{"update_waits", "a INVITE sdp|b 200 sdp allow=UPDATE|a ACK|a UPDATE hold"},
	{"session_refresh_is_ours", "a INVITE sdp supported=timer se=600;refresher=uas|b 200 sdp se=1000;refresher=uac|a ACK|applied"},
	{"session_refresh_waits", "a INVITE sdp|b 200 sdp se=100;refresher=uac allow=UPDATE|a ACK|applied|wait 50s"},
	{"offer_taken_back_later", "a INVITE sdp|b 200 sdp|a ACK|a INVITE hold|b 200 broken|b 491"},
	{"fax", "a INVITE sdp|b 200 sdp|a ACK|b INVITE fax|a 200 fax|b ACK"},
	{"delayed_offer_in_a_reinvite", "a INVITE sdp|b 200 sdp|a ACK|b INVITE|a 200 hold"},
	{"challenge_answered", "a INVITE sdp|accept|b 407 auth=n1"},
	{"challenge_kept", "a INVITE sdp|b 407 auth=n1,SHA-256|b 200 sdp|accept|a ACK|applied"},
	{"challenge_of_a_bye", "a INVITE sdp|b 401 auth=n1|b 200 sdp|a ACK|a BYE|b 401 BYE auth=n2,stale"},
	{"failover_second_rings", "a INVITE sdp to=0|accept|b timeout INVITE at=1|accept|b 180"},
	{"failover_cancelled", "a INVITE sdp to=0|b 503 at=1|b 180|a CANCEL"},
	{"failover_dialog_by_name", "a INVITE sdp to=0|b timeout INVITE at=1|b 200 sdp contact=<sip:x@carrier.example>|accept|a ACK|applied"},
	{"serial_hurry_in_all_but_the_last", "a INVITE sdp to=3|b timeout INVITE"},
	{"transfer_calling", "a INVITE sdp|b 200 sdp|a ACK|accept|b INVITE hold|a 200 held|b ACK|b REFER refer=600|accept|c 180"},
	{"transfer_transferor_gone", "a INVITE sdp|b 200 sdp|a ACK|b REFER refer=600|b BYE|accept"},
	{"transfer_joined", "a INVITE sdp|b 200 sdp|a ACK|b INVITE hold|a 200 held|b ACK|b REFER refer=600|c 200 sdp|accept"},
	{"transfer_told_later", "a INVITE sdp|b 200 sdp|a ACK|b INVITE hold|a 200 held|b ACK|b REFER refer=600 quiet|c 200 sdp|a 491"},
	{"transfer_failed", "a INVITE sdp|b 200 sdp|a ACK|b REFER refer=600|c 486"},
	{"transferred_callee", "a INVITE sdp|b 200 sdp|a ACK|b REFER refer=600 quiet|c 200 sdp|b 200 BYE|accept|applied"},
	{"replacing_asked", "a INVITE sdp|b 200 sdp|a ACK|c INVITE sdp replaces=b loop"},
	{"replacing_answered", "a INVITE sdp|b 200 sdp|a ACK|c INVITE sdp replaces=b loop|a 200 sdp|accept"},
	{"transferred_caller", "a INVITE sdp|b 200 sdp|a REFER refer=600 quiet|c 200 sdp|a 200 BYE|accept|applied"},
	{"fork_inviting", "a INVITE sdp to=2|accept|b 180"},
	{"fork_early_media", "a INVITE sdp to=2|accept|c 183 sdp|accept"},
	{"fork_one_refused", "a INVITE sdp to=2|accept|b 486"},
	{"fork_half_answered", "a INVITE sdp to=2|accept|b 180|c 200 sdp"},
	{"fork_loser_answered", "a INVITE sdp to=2|accept|c 200 sdp|b 200 sdp|a ACK|accept|applied|d 487"},
	{"fork_reliable", "a INVITE sdp to=2 supported=100rel|accept|b 183 sdp rseq=1|c 183 sdp rseq=1|c 200 PRACK|accept"},
	{"fork_won_200_waits_for_prack", "a INVITE sdp to=2 require=100rel|accept|b 180|accept|c 200 sdp"},
	{"fork_cancelled", "a INVITE sdp to=2|accept|b 180|a CANCEL|b 487"},
	{"fork_account", "a INVITE sdp to=707|accept|c 180"},
	{"serial_first", "a INVITE sdp to=3|accept|b 180"},
	{"serial_second", "a INVITE sdp to=3|accept|b 486|accept|c 180"},
	{"serial_time_over", "a INVITE sdp to=3|accept|b 180|wait 15s|accept|c 180"},
	{"serial_account_first", "a INVITE sdp to=807|accept|b 180"},
	{"redirect_followed", "a INVITE sdp|accept|b 302 contact=<sip:600@198.51.100.1>|accept|c 180"},
	{"webrtc_inviting", "a INVITE webrtc,video|accept|b 180"},
	{"webrtc_answered", "a INVITE webrtc,video|accept|b 200 sdp"},
	{"webrtc_talking", "a INVITE webrtc,video|b 200 sdp|accept|a ACK|applied"},
	{"webrtc_called", "a INVITE sdp to=720|accept|b 180"},
	{"webrtc_called_talking", "a INVITE sdp to=720|b 200 webrtc,active|accept|a ACK|applied"},
	{"webrtc_both", "a INVITE webrtc to=720|b 200 webrtc,passive|accept|a ACK|applied"},
	{"webrtc_restart_waits", "a INVITE webrtc|b 200 sdp|a ACK|a INVITE webrtc,restart|accept"},
	{"webrtc_restarted", "a INVITE webrtc|b 200 sdp|a ACK|a INVITE webrtc,restart|b 200 sdp|accept|a ACK|applied"},
	{"sdes_called", "a INVITE sdp to=*1|accept|b 180"},
	{"sdes_talking", "a INVITE sdes,gcm to=*1|b 200 sdes,3|accept|a ACK|applied"},
	{"sdes_preferred", "a INVITE sdp to=*2|accept"},
	{"sdes_refused", "a INVITE sdp to=*2|b 488|accept|b 180"},
	{"sdes_gone", "a INVITE sdes|b 200 sdp|a ACK|a INVITE sdp|b 200 sdp|accept|a ACK|applied"},
	{"fork_of_profiles", "a INVITE sdp to=*5|accept|b 180"},
	{"serial_of_profiles", "a INVITE sdp to=*6|accept|b 180"},
	{"echo_answered", "a INVITE webrtc to=*7|accept"},
	{"echo_talking", "a INVITE webrtc to=*7|accept|a ACK|applied"},
	{"echo_held", "a INVITE sdp to=*7|a ACK|a INVITE hold|accept|a ACK|applied"},
	{"tone_without_an_answer", "a INVITE to=*8|accept"},
	{"tone_talking", "a INVITE to=*8|accept|a ACK sdp|applied"},
	{"redirect_to_several", "a INVITE sdp to=5|b 300 contact=<sip:600@x>;q=0.2 contact=<sip:123@192.0.2.2:5060>;q=0.9|accept"},
}

var kinds1 = []kind{
	{"inviting", "a INVITE sdp"},
	{"ringing", "a INVITE sdp|accept|b 180"},
	{"early_media", "a INVITE sdp|accept|b 183 sdp|accept"},
	{"answered", "a INVITE sdp|accept|b 200 sdp"},
	{"answered_bye_due", "a INVITE sdp|b 200 sdp|accept|b BYE|accept"},
	{"talking", "a INVITE sdp|b 200 sdp|accept|a ACK|applied"},
	{"talking_unconfirmed", "a INVITE sdp|b 200 sdp|a ACK"},
	{"video_offered", "a INVITE video|b 200 sdp|accept|a ACK|applied"},
	{"rtcp_mux", "a INVITE mux|b 200 mux|accept|a ACK|applied"},
	{"held", "a INVITE sdp|b 200 sdp|a ACK|a INVITE hold|b 200 held|a ACK|accept|applied"},
	{"reinvite_waits", "a INVITE sdp|b 200 sdp|a ACK|applied|b INVITE moved|accept"},
	{"reinvite_answered", "a INVITE sdp|b 200 sdp|a ACK|b INVITE moved|a 200 sdp|accept"},
	{"reinvite_cancelled", "a INVITE sdp|b 200 sdp|a ACK|a INVITE hold|a CANCEL|accept"},
	{"info_waits", "a INVITE sdp|b 200 sdp|a ACK|applied|a INFO dtmf|accept"},
	{"fork", "a INVITE sdp|b 200 sdp tag=b1|b 200 sdp tag=b2|a ACK|accept"},
	{"ended_bye_out", "a INVITE sdp|b 200 sdp|a ACK|a BYE"},
	{"ended_cancel_out", "a INVITE sdp|b 180|a CANCEL"},
	{"ended_cdr_pending", "a INVITE sdp|b 200 sdp|a ACK|a BYE|b 200 BYE|accept|applied"},
	{"ended_busy", "a INVITE sdp|b 486"},
	{"account_inviting", "a INVITE sdp to=700|b 180"},
	{"account_talking", "a INVITE sdp to=700|b 200 sdp|a ACK"},
	{"tombstone", "a INVITE sdp|b 200 sdp|a ACK|a BYE|b 200 BYE|accept|applied|stored"},
	{"tombstone_refused", "a INVITE sdp to=9|accept|stored"},
}

// TestStoredRecords takes records that releases have stored, kept for ever:
// every later release must read each, migrate it up, carry the call to its end,
// and write it back for the older one.
func TestStoredRecords(t *testing.T) {
	if *snapshotFlag {
		writeSnapshots(t)
	}
	for schema, kinds := range kinds {
		if len(kinds) == 0 {
			continue
		}
		dir := filepath.Join(snapshots, strconv.Itoa(schema))
		sums, err := os.ReadFile(filepath.Join(dir, "SHA256SUMS"))
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(string(sums)), "\n")
		files, _ := filepath.Glob(filepath.Join(dir, "*.json"))
		if len(lines) != len(files) || len(files) < len(kinds) {
			t.Errorf("schema %d: %d records, %d sums, %d kinds: none may go, and a new kind of call is added with -snapshot", schema, len(files), len(lines), len(kinds))
		}
		for _, l := range lines {
			sum, name, _ := strings.Cut(l, "  ")
			t.Run(fmt.Sprintf("%d/%s", schema, strings.TrimSuffix(name, ".json")), func(t *testing.T) {
				raw, err := os.ReadFile(filepath.Join(dir, name))
				if err != nil {
					t.Fatal(err)
				}
				if fmt.Sprintf("%x", sha256.Sum256(raw)) != sum {
					t.Fatal("a stored record was edited: records like it are in the field; put it back and write a migration")
				}
				carry(t, schema, raw)
			})
		}
	}
}

func carry(t *testing.T, of int, raw []byte) {
	s, err := Decode(of, raw)
	if err != nil {
		t.Fatal(err)
	}
	if err := Check(s); err != nil {
		t.Fatal(err)
	}
	for _, floor := range []int{Schema, of} { // up, and down again
		schema, again, err := Encode(s, floor)
		if err != nil || schema != floor {
			t.Fatalf("written as schema %d of floor %d: %v", schema, floor, err)
		}
		back, err := Decode(schema, again)
		if err != nil {
			t.Fatal(err)
		}
		a, _ := json.Marshal(s)
		if b, _ := json.Marshal(back); !bytes.Equal(a, b) {
			t.Errorf("through schema %d it became\n%s\nwas\n%s", schema, b, a)
		}
	}
	if _, err := DecodeStub(raw); err != nil {
		t.Error(err)
	}
	stored := 0
	w := newWorld(t)
	w.s, w.now = s, testStart.Add(time.Minute)
	w.heard[486] = true // what a record's callee may have said before
	if Settled(s) {
		return
	}
	for _, a := range s.Pending {
		w.perform(a)
	}
	for _, a := range s.Pending {
		if a.CDR != nil {
			stored++
		}
	}
	if Ended(s) && stored == 0 {
		w.cdrs = []CDR{s.CDR} // stored before
	}
	if err := w.finish(); err != nil {
		t.Error(err)
	}
}

func writeSnapshots(t *testing.T) {
	dir := filepath.Join(snapshots, strconv.Itoa(Schema))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	sums, err := os.OpenFile(filepath.Join(dir, "SHA256SUMS"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sums.Close() }()
	for _, k := range kinds[Schema] {
		name := filepath.Join(dir, k.name+".json")
		if _, err := os.Stat(name); err == nil {
			continue
		}
		w := newWorld(t)
		w.do(strings.Split(k.lines, "|")...)
		schema, raw, err := Encode(w.s, SchemaMin)
		if err != nil || schema != Schema {
			t.Fatalf("%s is a call of schema %d: %v", k.name, schema, err)
		}
		if err := os.WriteFile(name, raw, 0o644); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(sums, "%x  %s.json\n", sha256.Sum256(raw), k.name)
	}
}

// TestRecordOfATalkingCallIsSmall: a held call costs its record in the store, in
// each replica, and in every move.
func TestRecordOfATalkingCallIsSmall(t *testing.T) {
	for lines, most := range map[string]int{
		"a INVITE sdp|b 200 sdp":                              2500, // as saved at the answer: with the 2xx that waits for its ACK
		"a INVITE sdp|b 200 sdp|accept|a ACK|applied|wait 8s": 1500,
	} {
		w := newWorld(t)
		w.do(strings.Split(lines, "|")...)
		_, raw, err := Encode(w.s, SchemaMin)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d bytes", lines, len(raw))
		if len(raw) > most {
			t.Errorf("%s: %d bytes, at most %d\n%s", lines, len(raw), most, raw)
		}
	}
}
