// The page: what is shown when, and what the buttons do.
import { Phone } from './phone.js';
import { Meter } from './quality.js';
import { follow } from './releases.js';
import * as sound from './sound.js';
import * as tones from './tones.js';
import * as words from './words.js';

const at = (id) => document.getElementById(id);
const phone = new Phone();
let about = { sockets: [], accounts: [], numbers: [] };

// --- what is wrong -------------------------------------------------------------

function notice(text) {
  at('notice').textContent = text;
  at('notice').hidden = !text;
}

// microphone opens one for use, or says why there is none. The browser may have
// asked for a long time: what nobody wants any more is closed again.
async function microphone(wanted, use) {
  let stream;
  try {
    stream = await sound.listen();
  } catch (error) {
    notice(words.microphone(error));
    return;
  }
  notice('');
  devices(); // labels are known from now on
  if (wanted()) {
    await use(stream);
  } else {
    sound.stop(stream);
  }
}

// --- the account -----------------------------------------------------------------

async function begin() {
  try {
    const answer = await fetch('phone.json', { cache: 'no-store' });
    if (!answer.ok) {
      throw new Error((await answer.text()).trim() || answer.statusText);
    }
    about = await answer.json();
  } catch (error) {
    notice(`The switch does not say how to reach it (${error.message}). Trying again.`);
    setTimeout(begin, 2000);
    return;
  }
  notice('');
  if (!window.isSecureContext) {
    notice(words.microphone(null));
  }
  const urls = about.sockets.filter((s) => location.protocol === 'http:' || s.startsWith('wss:'));
  if (!urls.length && window.isSecureContext) {
    notice(about.sockets.length
      ? 'This page came by https, so the browser allows it wss only, and the switch listens on ws alone: add a wss listener to edge.listen.'
      : 'The switch has no WebSocket listener: add ws:127.0.0.1:8081 to edge.listen, or wss with a certificate.');
  }
  at('socket').replaceChildren(...urls.map((s) => new Option(s, s)));
  at('socket-row').hidden = urls.length < 2;
  at('demo-accounts').replaceChildren(...about.accounts.map((a) => button(a.name, () => signIn(a.name, a.password))));
  at('demo').hidden = !about.accounts.length;
  at('numbers').replaceChildren(...about.numbers.map((n) => button(`${n.label} ${n.number}`, () => { at('number').value = n.number; dial(); })));
  at('numbers').hidden = !about.numbers.length;
  at('about').textContent = about.release ? `switch ${about.release}` : '';
  at('account').value = localStorage.getItem('account') || '';
  show();
  const wanted = about.accounts.find((a) => a.name === decodeURIComponent(location.hash.slice(1)));
  if (wanted) {
    signIn(wanted.name, wanted.password);
  }
}

function button(text, fn) {
  const b = document.createElement('button');
  b.type = 'button';
  b.textContent = text;
  b.addEventListener('click', fn);
  return b;
}

function signIn(account, password) {
  localStorage.setItem('account', account);
  document.title = `${account} · softphone`;
  at('signed-in').textContent = `${account}, by ${at('socket').value}`;
  try {
    phone.start({ socket: at('socket').value, host: location.hostname, account, password });
  } catch (error) {
    notice(`This account cannot be used: ${error.message}`);
  }
}

at('sign-in').addEventListener('submit', (e) => {
  e.preventDefault();
  signIn(at('account').value.trim(), at('password').value);
});
at('sign-out').addEventListener('click', () => {
  phone.stop();
  document.title = 'Softphone';
});

phone.addEventListener('state', () => {
  notice(phone.wrong || (phone.state === 'off' ? at('notice').textContent : ''));
  show();
});

// show puts on the page what fits the state of phone and call.
function show() {
  const { state, call } = phone;
  at('state').dataset.state = state;
  at('state-words').textContent = phone.words;
  const out = state === 'off' || state === 'refused';
  at('sign-in').hidden = !out;
  at('settings').hidden = out;
  at('dialler').hidden = out || (call && call.phase !== 'talking');
  at('dial-now').hidden = Boolean(call);
  at('number').readOnly = at('erase').hidden = Boolean(call);
  at('number').placeholder = call ? 'press keys' : 'number or name';
  at('dial-now').disabled = state !== 'registered';
  at('numbers').hidden = Boolean(call) || !about.numbers.length;
}

// --- the call ----------------------------------------------------------------------

let shown = null; // the call on the page, until the next one

const phrases = { calling: 'calling', ringing: 'ringing', incoming: 'is calling you', talking: 'talking' };

async function dial() {
  const number = at('number').value.trim();
  if (!number || phone.call || phone.state !== 'registered') {
    at('number').focus();
    return;
  }
  await microphone(() => !phone.call && phone.state === 'registered', (stream) => phone.dial(number, stream));
}

at('dial').addEventListener('submit', (e) => {
  e.preventDefault();
  dial();
});

phone.addEventListener('call', ({ detail: call }) => {
  const meter = new Meter();
  let hush = null;
  let last = '';
  at('releases').hidden = true;
  at('quality').hidden = true;
  at('who').textContent = call.who;
  at('number').value = '';
  shown = call;
  follow(call, (line) => {
    if (shown !== call) {
      return; // it has ended, and another has its place
    }
    if (at('releases').textContent !== line) { // said once by a screen reader
      at('releases').textContent = line;
    }
    at('releases').hidden = !line;
  });
  const tick = setInterval(async () => {
    at('clock').textContent = call.answered ? clock(Date.now() - call.answered) : '';
    if (call.connection && call.phase === 'talking') {
      quality(await meter.read(call.connection));
    }
  }, 1000);
  const change = () => {
    if (last !== call.phase) {
      last = call.phase;
      hush?.();
      const tone = { incoming: 'incoming', ringing: call.early ? '' : 'ringing' }[call.phase];
      hush = tone ? tones.play(tone) : null;
    }
    if (call.phase === 'ended') {
      clearInterval(tick);
    }
    draw(call);
  };
  call.addEventListener('change', change);
  wire(call);
  change();
});

function wire(call) {
  at('answer').onclick = () => microphone(() => call.phase === 'incoming' && !call.stream, (stream) => call.answer(stream));
  at('hang-up').onclick = () => call.hangUp();
  at('mute').onclick = () => call.mute(!call.muted);
  at('hold').onclick = () => call.hold(!call.held.local);
  at('microphone').onchange = at('cleaned').onchange = async () => {
    remember();
    const talks = () => call.stream && call.phase !== 'ended';
    if (talks()) {
      await microphone(talks, (stream) => call.speakInto(stream));
    }
  };
}

function draw(call) {
  const over = call.phase === 'ended';
  at('call').hidden = false;
  at('call').dataset.phase = call.phase;
  at('call').dataset.connection = call.connection?.connectionState || '';
  at('phase').textContent = over ? call.why : phrases[call.phase];
  if (call.phase === 'talking' && (call.held.local || call.held.remote)) {
    at('phase').textContent = call.held.local ? 'on hold' : 'the other side holds the call';
  }
  if (call.phase === 'talking' && ['disconnected', 'failed'].includes(call.connection?.connectionState)) {
    at('phase').textContent = 'the sound does not get through';
  }
  at('answer').hidden = call.phase !== 'incoming';
  at('mute').hidden = at('hold').hidden = call.phase !== 'talking';
  at('hang-up').hidden = over;
  at('hang-up').querySelector('span').textContent = call.phase === 'incoming' ? 'Decline' : 'Hang up';
  at('mute').setAttribute('aria-pressed', call.muted);
  at('hold').setAttribute('aria-pressed', call.held.local);
  at('quality').hidden = call.phase !== 'talking';
  const audio = at('remote');
  if (over) {
    audio.srcObject = null;
  } else if (call.remote && audio.srcObject !== call.remote) {
    audio.srcObject = call.remote;
    sound.speakThrough(audio);
    audio.play().catch((error) => {
      if (error.name === 'NotAllowedError') { // else the call has ended, or has other sound by now
        notice('The browser holds the sound back until you click on this page.');
        document.addEventListener('click', () => audio.play().then(() => notice(''), () => {}), { once: true });
      }
    });
  }
  show();
  if (call.phase === 'incoming') {
    at('answer').focus();
  }
}

function quality(q) {
  const put = (id, text, poor) => {
    at(id).textContent = text ?? '–';
    at(id).parentElement.classList.toggle('poor', Boolean(poor));
  };
  put('q-codec', q.codec);
  put('q-loss', q.loss === null ? null : `${q.loss.toFixed(1)} %`, q.loss > 3);
  put('q-jitter', q.jitter === null ? null : `${q.jitter.toFixed(0)} ms`, q.jitter > 40);
  put('q-rtt', q.rtt === null ? null : `${q.rtt.toFixed(0)} ms`, q.rtt > 300);
}

function clock(ms) {
  const s = Math.floor(ms / 1000);
  const two = (n) => String(n).padStart(2, '0');
  return s < 3600 ? `${two(Math.floor(s / 60))}:${two(s % 60)}` : `${Math.floor(s / 3600)}:${two(Math.floor(s / 60) % 60)}:${two(s % 60)}`;
}

// --- keys ----------------------------------------------------------------------------

const letters = { 2: 'ABC', 3: 'DEF', 4: 'GHI', 5: 'JKL', 6: 'MNO', 7: 'PQRS', 8: 'TUV', 9: 'WXYZ', 0: '+' };
for (const d of '123456789*0#') {
  const b = button(d, () => press(d));
  b.dataset.key = d;
  const small = document.createElement('small');
  small.textContent = letters[d] || '';
  small.ariaHidden = 'true';
  b.append(small);
  at('keys').append(b);
}

function press(d) {
  at('number').value += d;
  if (phone.call?.phase === 'talking') {
    phone.call.digit(d);
  }
}

at('erase').addEventListener('click', () => { at('number').value = at('number').value.slice(0, -1); });
document.addEventListener('keydown', (e) => {
  if (phone.call?.phase === 'talking' && /^[0-9*#]$/.test(e.key) && !e.ctrlKey && !e.metaKey && !e.altKey) {
    press(e.key);
  }
});

// --- devices ---------------------------------------------------------------------------

async function devices() {
  await sound.fill(at('microphone'), 'audioinput');
  await sound.fill(at('speaker'), 'audiooutput');
}

at('speaker-row').hidden = !sound.canChooseSpeaker;
at('speaker').addEventListener('change', () => {
  sound.choose('audiooutput', at('speaker').value);
  sound.speakThrough(at('remote'));
});
function remember() {
  sound.choose('audioinput', at('microphone').value);
  sound.clean(at('cleaned').checked);
}

at('cleaned').checked = sound.cleaned();
at('microphone').onchange = at('cleaned').onchange = remember;
at('settings').addEventListener('toggle', devices);
navigator.mediaDevices?.addEventListener('devicechange', devices);

window.addEventListener('beforeunload', (e) => {
  if (phone.call) {
    e.preventDefault();
  }
});
window.addEventListener('pagehide', () => phone.stop());
window.addEventListener('pageshow', (e) => e.persisted && location.reload());

begin();
