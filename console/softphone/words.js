// What went wrong, in words that say what to do.

// microphone explains an error of getUserMedia; null: the page may not even ask.
export function microphone(error) {
  if (!window.isSecureContext || !navigator.mediaDevices) {
    return `Browsers give a microphone to secure pages only, and ${location.origin} is not one. Open this page by https, or as http://localhost on the machine that runs the switch.`;
  }
  switch (error?.name) {
    case 'NotAllowedError':
      return 'The browser denies the microphone. Allow it for this page (the icon beside the address), then try again.';
    case 'NotFoundError':
    case 'OverconstrainedError':
      return 'No microphone was found. Connect one, or choose another below.';
    case 'NotReadableError':
      return 'The microphone does not start. Another program may be using it.';
  }
  return `The microphone cannot be used: ${error?.message || error?.name || 'unknown reason'}.`;
}

// registration explains a refused REGISTER.
export function registration(status, cause) {
  switch (status) {
    case 401:
    case 403:
    case 407:
      return 'The switch does not know this account with this password.';
    case 423:
      return 'The switch does not accept how long this phone wants to be registered.';
    case 429:
    case 503:
      return 'The switch cannot register this phone now.';
  }
  return status ? `The switch refuses to register this phone: ${status} ${cause}.` : 'The switch does not answer the registration.';
}

const endings = {
  403: 'this account may not call there',
  404: 'nobody has this number',
  408: 'no answer',
  480: 'not reachable now',
  481: 'the switch does not know this call any more',
  484: 'the number is not complete',
  486: 'busy',
  487: 'cancelled',
  488: 'the two phones have no codec in common',
  500: 'the switch had an error',
  503: 'the switch takes no new calls now',
  600: 'busy everywhere',
  603: 'declined',
  604: 'nobody has this number',
};

// ending explains why a call ended. e is the event of JsSIP.
export function ending(e, seconds) {
  const status = e.message?.status_code;
  if (status) {
    return endings[status] || `${status} ${e.message.reason_phrase || ''}`.trim();
  }
  switch (e.cause) {
    case 'User Denied Media Access':
      return 'no microphone';
    case 'WebRTC Error':
    case 'Incompatible SDP':
    case 'Bad Media Description':
      return 'the browser and the switch could not agree on the sound';
    case 'RTP Timeout':
      return 'the sound stopped';
    case 'Request Timeout':
    case 'Connection Error':
      return 'the switch does not answer';
    case 'Expires':
    case 'No Answer':
      return 'no answer';
    case 'Canceled':
      return e.originator === 'remote' ? 'missed' : 'cancelled';
    case 'Rejected':
      return 'declined';
  }
  if (seconds === null) {
    return 'ended';
  }
  return e.originator === 'remote' ? 'hung up by the other side' : 'ended';
}
