// Call is one call: what its buttons do, and a 'change' event whenever its phase,
// its hold or its mute is another.
//
//   calling -> ringing -> talking -> ended      incoming -> talking -> ended
import { stop } from './sound.js';
import * as words from './words.js';

// gathering longer than this for candidates helps nobody: the switch is ICE-lite
// and needs none of ours.
const gathering = 500; // ms

const wish = { iceServers: [], bundlePolicy: 'max-bundle', rtcpMuxPolicy: 'require' };

export class Call extends EventTarget {
  phase = 'calling';
  why = ''; // it ended
  held = { local: false, remote: false };
  muted = false;
  answered = null; // ms since 1970
  stream = null; // ours
  remote = null; // theirs
  connection = null;
  early = false; // there is sound before the answer
  #session = null;

  constructor(session, { incoming, who, tag }) {
    super();
    this.incoming = incoming;
    this.who = who;
    this.tag = tag || ''; // the switch's tag in our dialog: its name for this call
    if (incoming) {
      this.phase = 'incoming';
      this.#session = session;
      for (const [event, fn] of Object.entries(this.#handlers())) {
        session.on(event, fn);
      }
    }
  }

  // begin sends the INVITE by way of call, a function of JsSIP's options.
  begin(call, stream) {
    this.stream = stream;
    try {
      this.#session = call({ mediaStream: stream, pcConfig: wish, eventHandlers: this.#handlers() });
    } catch {
      this.#end('this is no number or address');
    }
  }

  answer(stream) {
    this.stream = stream;
    this.#session.answer({ mediaStream: stream, pcConfig: wish });
  }

  hangUp() {
    if (this.phase === 'ended') {
      return;
    }
    const decline = this.phase === 'incoming' ? { status_code: 603, reason_phrase: 'Decline' } : {};
    try {
      this.#session.terminate(decline);
    } catch {
      this.#end('ended'); // it was over already
    }
  }

  hold(on) {
    const done = on ? this.#session.hold() : this.#session.unhold();
    if (!done) {
      this.#changed(); // refused: the button goes back
    }
  }

  mute(on) {
    this.muted = on;
    for (const t of this.stream?.getAudioTracks() || []) {
      t.enabled = !on;
    }
    this.#changed();
  }

  // digit sends one key, as an event in the sound (RFC 4733) or by INFO.
  digit(d) {
    const sender = this.connection?.getSenders().find((s) => s.dtmf);
    const inSound = sender?.dtmf.canInsertDTMF;
    this.#session.sendDTMF(d, { duration: 120, interToneGap: 80, transportType: inSound ? 'RFC2833' : 'INFO' });
  }

  // speakInto takes another microphone.
  async speakInto(stream) {
    const [track] = stream.getAudioTracks();
    track.enabled = !this.muted;
    await this.connection?.getSenders().find((s) => !s.track || s.track.kind === 'audio')?.replaceTrack(track);
    stop(this.stream);
    this.stream = stream;
  }

  #handlers() {
    return {
      peerconnection: ({ peerconnection }) => this.#connect(peerconnection),
      icecandidate: ({ ready }) => setTimeout(ready, gathering),
      progress: ({ originator, response }) => {
        if (originator === 'remote') {
          this.tag = response.to_tag || this.tag;
          this.early ||= Boolean(response.body);
          this.#become('ringing');
        }
      },
      accepted: ({ originator, response }) => {
        if (originator === 'remote') {
          this.tag = response.to_tag || this.tag;
        }
        this.answered = Date.now();
        this.#become('talking');
      },
      hold: () => this.#holding(),
      unhold: () => this.#holding(),
      ended: (e) => this.#end(words.ending(e, 1)),
      failed: (e) => this.#end(words.ending(e, null)),
    };
  }

  #connect(pc) {
    this.connection = pc;
    pc.addEventListener('track', ({ track, streams }) => {
      this.remote = streams[0] || new MediaStream([track]);
      this.#changed();
    });
    pc.addEventListener('connectionstatechange', () => this.#changed());
  }

  #holding() {
    this.held = this.#session.isOnHold();
    this.#changed();
  }

  #become(phase) {
    if (this.phase !== 'ended') {
      this.phase = phase;
      this.#changed();
    }
  }

  #end(why) {
    if (this.phase === 'ended') {
      return;
    }
    this.why = why;
    stop(this.stream);
    this.#become('ended');
  }

  #changed() {
    this.dispatchEvent(new Event('change'));
  }
}
