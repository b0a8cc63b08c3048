// What the browser counts of a call, as figures of the last few seconds.

// Meter reads a connection; call read every second or two.
export class Meter {
  #last = null;

  // read returns {codec, loss, jitter, rtt}: loss in per cent of what was sent to
  // us (and of what we sent, whichever is worse), times in ms; null: not known.
  async read(connection) {
    const now = { received: 0, lost: 0, theirs: null, jitter: null, rtt: null, codec: null };
    const report = await connection.getStats();
    report.forEach((s) => {
      if (s.type === 'inbound-rtp' && s.kind === 'audio') {
        now.received += s.packetsReceived || 0;
        now.lost += s.packetsLost || 0;
        now.jitter = s.jitter ?? now.jitter;
        const codec = report.get(s.codecId);
        if (codec) {
          now.codec = `${codec.mimeType.replace(/^audio\//, '')} ${codec.clockRate / 1000} kHz`;
        }
      }
      if (s.type === 'remote-inbound-rtp' && s.kind === 'audio') {
        now.theirs = s.fractionLost ?? now.theirs;
        now.rtt = s.roundTripTime ?? now.rtt;
      }
      if (s.type === 'candidate-pair' && s.nominated && s.currentRoundTripTime !== undefined) {
        now.rtt ??= s.currentRoundTripTime;
      }
    });
    const before = this.#last || { received: 0, lost: 0 };
    this.#last = now;
    const lost = now.lost - before.lost;
    const due = now.received - before.received + lost;
    const ours = due > 0 ? Math.max(0, lost) / due : null;
    const loss = ours === null ? now.theirs : Math.max(ours, now.theirs ?? 0);
    return {
      codec: now.codec,
      loss: loss === null ? null : 100 * loss,
      jitter: now.jitter === null ? null : 1000 * now.jitter,
      rtt: now.rtt === null ? null : 1000 * now.rtt,
    };
  }
}
