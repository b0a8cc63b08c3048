// Phone is one account at one switch: its WebSocket, its registration, its call.
// It tells its state by 'state' events and each new call by a 'call' event.
import JsSIP from './jssip.js';
import { Call } from './call.js';
import * as words from './words.js';

const away = 'the switch is away; trying again';
const again = 5000; // ms until a registration that failed by no fault of ours

export class Phone extends EventTarget {
  state = 'off';
  words = 'not signed in'; // its state, for the corner of the page
  wrong = ''; // why it is refused
  call = null;
  #ua = null;
  #host = '';

  // start signs in at a WebSocket URL; host is what stands behind the @.
  start({ socket, host, account, password }) {
    this.#ua?.stop();
    this.#host = host;
    const ua = new JsSIP.UA({
      sockets: [new JsSIP.WebSocketInterface(socket)],
      uri: `sip:${account}@${host}`,
      authorization_user: account,
      password,
      register_expires: 300,
      user_agent: `callswitch softphone (${JsSIP.name} ${JsSIP.version})`,
      connection_recovery_min_interval: 1,
      connection_recovery_max_interval: 8,
    });
    this.#ua = ua;
    const tell = (...news) => this.#ua === ua && this.#tell(...news);
    ua.on('connecting', ({ attempts }) => attempts ? tell('away', away) : tell('connecting', 'connecting'));
    ua.on('connected', () => tell('connecting', 'registering'));
    ua.on('disconnected', ({ error }) => error && tell('away', away));
    ua.on('registered', () => tell('registered', account));
    ua.on('unregistered', () => ua.isConnected() && tell('connecting', 'not registered'));
    ua.on('registrationFailed', ({ response, cause }) => {
      const status = response?.status_code;
      if (!ua.isConnected()) {
        tell('away', away);
      } else if (status >= 400 && status < 500 && status !== 408 && status !== 480) {
        tell('refused', 'not registered', words.registration(status, cause));
      } else {
        tell('away', 'not registered; trying again', words.registration(status, cause));
        setTimeout(() => this.#ua === ua && ua.isConnected() && ua.register(), again);
      }
    });
    ua.on('newRTCSession', ({ originator, session, request }) => {
      if (originator !== 'remote') {
        return; // dial knows
      }
      if (this.call) {
        session.terminate({ status_code: 486 });
        return;
      }
      this.#take(new Call(session, { incoming: true, who: name(request.from), tag: request.from_tag }));
    });
    ua.start();
  }

  stop() {
    this.call?.hangUp();
    const ua = this.#ua;
    this.#ua = null;
    ua?.stop();
    this.#tell('off', 'not signed in');
  }

  // dial calls a number, a name or a SIP URI with the sound of a stream.
  dial(number, stream) {
    const target = /^sips?:/i.test(number) ? number : number.includes('@') ? `sip:${number}` : `sip:${escaped(number)}@${this.#host}`;
    const call = new Call(null, { incoming: false, who: number });
    this.#take(call);
    call.begin((options) => this.#ua.call(target, options), stream);
    return call;
  }

  #take(call) {
    this.call = call;
    call.addEventListener('change', () => {
      if (call.phase === 'ended' && this.call === call) {
        this.call = null;
      }
    });
    this.dispatchEvent(new CustomEvent('call', { detail: call }));
  }

  #tell(state, text, wrong = '') {
    this.state = state;
    this.words = text;
    this.wrong = wrong;
    this.dispatchEvent(new Event('state'));
  }
}

function name(from) {
  return from.display_name || from.uri.user || from.uri.host;
}

// escaped writes what is dialled as the user of a SIP URI (RFC 3261 25.1).
function escaped(number) {
  return encodeURIComponent(number.replace(/[\s()]/g, '')).replaceAll('%2B', '+');
}
