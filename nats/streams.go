package nats

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"callswitch/sessions"
)

// Streams bounds what is kept. Zero values mean the defaults of the comments;
// sizes are bytes on disk, per replica.
type Streams struct {
	Replicas  int           // 1; 3 on a cluster
	Records   int64         // 250,000 calls, tombstones included; new ones are refused at 80 %
	Bytes     int64         // 1 GiB of them; new ones are refused at 80 %
	LegBytes  int64         // 512 MiB of cold media records
	CDRBytes  int64         // 4 GiB; full: CDRs wait in their calls' records
	CDRAge    time.Duration // 0: kept for ever
	Story     int64         // 256 MiB; the oldest lines go first
	StoryAge  time.Duration // 24 h
	DocsBytes int64         // 64 MiB of documents
	Accounts  int64         // 256 MiB of accounts
	Bindings  int64         // 512 MiB of registrations
	Carriers  int64         // 64 MiB of our registrations at carriers
	MaxValue  int           // 512 KiB: largest record or document
}

// Names of the streams, and of the documents' bucket.
const (
	streamRec   = "REC"
	streamLeg   = "LEG"
	streamCDR   = "CDR"
	streamStory = "STORY"

	streamAccounts = "ACCOUNT"
	streamBindings = "REG"
	streamCarriers = "CARRIER"
	accountChanged = "account.changed."
	carrierChanged = "carrier.changed."
	bucket         = "switch"
	docsChanged    = "docs.changed."
)

func (s Streams) withDefaults() Streams {
	def(&s.Replicas, 1)
	def(&s.Records, 250_000)
	def(&s.Bytes, 1<<30)
	def(&s.LegBytes, 512<<20)
	def(&s.CDRBytes, 4<<30)
	def(&s.Story, 256<<20)
	def(&s.StoryAge, 24*time.Hour)
	def(&s.DocsBytes, 64<<20)
	def(&s.Accounts, 256<<20)
	def(&s.Bindings, 512<<20)
	def(&s.Carriers, 64<<20)
	def(&s.MaxValue, 512<<10)
	return s
}

func def[T ~int | ~int64](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

func (s Streams) configs() []jetstream.StreamConfig {
	newest := func(name, subject string, msgs, bytes int64) jetstream.StreamConfig {
		return jetstream.StreamConfig{
			Name: name, Subjects: []string{subject}, Storage: jetstream.FileStorage, Replicas: s.Replicas,
			MaxMsgsPerSubject: 1, MaxMsgs: msgs, MaxBytes: bytes, MaxMsgSize: int32(s.MaxValue),
			// Old would silently forget the oldest live call when a limit is hit.
			Discard: jetstream.DiscardNew, AllowMsgTTL: true,
		}
	}
	told := func(c jetstream.StreamConfig, subject, changed string) jetstream.StreamConfig {
		c.RePublish = &jetstream.RePublish{Source: subject, Destination: changed + "{{wildcard(1)}}", HeadersOnly: true}
		return c
	}
	return []jetstream.StreamConfig{
		told(newest(streamAccounts, "acct.*", -1, s.Accounts), "acct.*", accountChanged),
		told(newest(streamCarriers, "carrier.*", -1, s.Carriers), "carrier.*", carrierChanged),
		newest(streamBindings, "reg.*", -1, s.Bindings),
		newest(streamRec, "rec.*", s.Records, s.Bytes),
		newest(streamLeg, "leg.*", -1, s.LegBytes),
		{
			Name: streamCDR, Subjects: []string{"cdr.*"}, Storage: jetstream.FileStorage, Replicas: s.Replicas,
			MaxBytes: s.CDRBytes, MaxAge: s.CDRAge, MaxMsgSize: int32(s.MaxValue), Discard: jetstream.DiscardNew, DenyDelete: true,
		},
		{
			Name: streamStory, Subjects: []string{"story.*"}, Storage: jetstream.FileStorage, Replicas: s.Replicas,
			MaxBytes: s.Story, MaxAge: s.StoryAge, MaxMsgsPerSubject: 500, Discard: jetstream.DiscardOld, NoAck: true,
		},
	}
}

// EnsureStreams creates what is missing, and gives streams that exist the
// limits asked for. Run it where the configuration is, once per start; NewStore
// and the others only wait for the streams. It tries until ctx ends
// (sessions.ErrUnavailable): a server that has just started is not ready yet.
func EnsureStreams(ctx context.Context, c *Conn, s Streams) error {
	s = s.withDefaults()
	for _, cfg := range s.configs() {
		err := persist(ctx, func(ctx context.Context) error {
			_, err := c.js.CreateOrUpdateStream(ctx, cfg)
			return err
		})
		if err != nil {
			return fmt.Errorf("nats: stream %s: %w", cfg.Name, err)
		}
	}
	kv := jetstream.KeyValueConfig{
		Bucket: bucket, Description: "plans, rollout, cluster", History: 10, MaxValueSize: int32(s.MaxValue), MaxBytes: s.DocsBytes,
		Storage: jetstream.FileStorage, Replicas: s.Replicas,
		// Watchers hear of a change after its commit, without a consumer each.
		RePublish: &jetstream.RePublish{Source: "$KV." + bucket + ".*", Destination: docsChanged + "{{wildcard(1)}}", HeadersOnly: true},
	}
	err := persist(ctx, func(ctx context.Context) error {
		_, err := c.js.CreateOrUpdateKeyValue(ctx, kv)
		return err
	})
	if err != nil {
		return fmt.Errorf("nats: bucket %s: %w", bucket, err)
	}
	return nil
}

// persist tries until do succeeds or ctx ends. A configuration that the server
// refuses is final.
func persist(ctx context.Context, do func(context.Context) error) error {
	for pause := firstPause; ; pause = min(2*pause, 200*time.Millisecond) {
		one, cancel := context.WithTimeout(ctx, 5*attempt)
		err := do(one)
		cancel()
		var api *jetstream.APIError
		if err == nil || errors.As(err, &api) && api.Code >= 400 && api.Code < 500 && api.ErrorCode != codeStreamMissing {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", sessions.ErrUnavailable, err)
		}
	}
}
